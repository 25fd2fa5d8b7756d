"""A device whose training step fails leaves the others waiting for its gradients for ever.

It has no window of its own series to train on, or a loss that is NaN, and raises an error; what the script does with
that (a loop over models goes on to the next), the others never learn. The patch lets a device whose step fails tell the
others through the store of the process group, and take part in what they wait for, with gradients of zero, until all
have heard: at the end of the following step each of them ends with the error of the first.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
FIT_START = "def on_fit_start(self): ..."

HOOKS = '''
def _failures_of_fit(self):
    """Where the devices of a fit tell each other of errors; None if there is but one."""
    trainer, dist = self.trainer, torch.distributed
    is_by_ddp = type(trainer.strategy).__name__.startswith("DDP")
    if trainer.world_size == 1 or not is_by_ddp or not dist.is_initialized():
        return None
    store = dist.distributed_c10d._get_default_store()
    if not hasattr(trainer, "_fit_of_all"):
        fits = f"neuralforecast/fits of {trainer.global_rank}"
        trainer._fit_of_all = store.add(fits, 1)
    return dist.PrefixStore(f"neuralforecast/failures/{trainer._fit_of_all}", store)

def on_train_batch_start(self, *args):
    """A step that fails on one of several devices ends the training on all.

        The others wait for its gradients, so that it gives some until they have heard.
        """
    import contextlib
    import pickle

    result = super().on_train_batch_start(*args)
    failures = self._failures_of_fit()
    if failures is None:
        return result
    step, given = self.training_step, vars(self).get("training_step")

    def step_or_tell(*args, **kwargs):
        del self.training_step
        if given is not None:
            self.training_step = given
        try:
            return step(*args, **kwargs)
        except Exception as error:
            self.trainer._own_error = error
            if failures.add("told", 1) == 1:
                try:
                    told = pickle.dumps(error)
                    pickle.loads(told)
                except Exception:
                    told = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
                failures.set("error", told)
                failures.set("step", str(self.trainer.global_step))
                failures.add("ready", 1)
            with contextlib.suppress(Exception):  # what the others may add up
                monitor = getattr(self, "val_monitor", None)
                self.log(
                    "train_loss",
                    float("nan"),
                    batch_size=1,
                    prog_bar=True,
                    on_epoch=True,
                    sync_dist=monitor == "train_loss"
                    and not hasattr(self.trainer.datamodule, "files_ds"),
                )
            return sum((k * 0).sum() for k in self.parameters() if k.requires_grad)

    self.training_step = step_or_tell
    return result

def on_train_batch_end(self, *args):
    super().on_train_batch_end(*args)
    # What is told before the gradients of a step all know at the end of the next one,
    # also where the gradients are still on their way when a step ends, as on GPUs
    self._end_with_error(told_before=self.trainer.global_step - 1)

def on_train_epoch_end(self):
    super().on_train_epoch_end()
    failures = self._failures_of_fit()
    if failures is not None and self.trainer.fit_loop.done:
        if failures.add("ended", 1) == self.trainer.world_size:
            failures.set("all have ended", "")
        failures.wait(["all have ended"])
        self._end_with_error(told_before=self.trainer.global_step)

def _end_with_error(self, told_before):
    """End with the first error of any device, if it is of an earlier step than this."""
    import pickle

    failures = self._failures_of_fit()
    if failures is None or failures.add("ready", 0) == 0:
        return
    if int(failures.get("step")) < told_before:
        own = getattr(self.trainer, "_own_error", None)
        raise pickle.loads(failures.get("error")) from own
'''


# In Lightning 1.6 one device adds up losses before that hook, and the others after it
HOOKS_OF_LIGHTNING_1 = HOOKS.replace("on_train_epoch_end", "on_train_end")


def told_in(class_: str, hooks: str = HOOKS) -> Rewrite:
    """Let all devices end together, in the models of this base class."""
    return Rewrite((Change(class_, old=FIT_START, new=f"{hooks}\n{FIT_START}"),))


def in_bases(*names: str, hooks: str = HOOKS) -> dict[str, Rewrite]:
    """The same in each base class that models have in this release."""
    return {f"{COMMON}_base_{name}.py": told_in(f"Base{name.capitalize()}", hooks) for name in names}


patch = Patch(
    id="error-on-one-rank",
    summary="where a training step fails on one of several devices, the others wait for ever",
    symptoms=("Connection closed by peer",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/error-on-one-rank.md",
    variants={
        "<1.5": in_bases("windows", "recurrent", hooks=HOOKS_OF_LIGHTNING_1),
        ">=1.5,<1.7": in_bases("windows", "recurrent", "multivariate"),
        ">=1.7": {f"{COMMON}_base_model.py": told_in("BaseModel")},
    },
    unaffected={},
    cases=(
        Case(
            "NHITS",
            "error on one rank",
            options={"mlp_units": [[8, 8]] * 3},
            stage="failing-rank",
            original_hangs=True,
            launchers=("torchrun", "script"),
        ),
    ),
)
