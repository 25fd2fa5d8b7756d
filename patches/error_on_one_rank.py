"""A training step that fails on one rank leaves the others hanging in the reduction of gradients.

A rank raises if its series have no window to train on, or if its loss is NaN. If the script catches the error and goes
on, as a loop over models does, the other ranks hang. With the patch, a rank whose step fails publishes the error
through the store of the process group, and takes part in the collective calls of the others with zero gradients: at the
end of the following step every rank raises the first error.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
FIT_START = "def on_fit_start(self): ..."
STEP_HOOKS = """
def on_train_batch_start(self, *args):
    failures.guard_training_step(self)
    return super().on_train_batch_start(*args)

def on_train_batch_end(self, *args):
    super().on_train_batch_end(*args)
    failures.raise_error_of_rank(self)
"""
EPOCH_END_OF_LIGHTNING_1 = "def validation_epoch_end(self, outputs): ..."
ABSENT = (
    "def on_train_batch_start(self, batch, batch_idx): ...",
    "def on_train_batch_end(self, outputs, batch, batch_idx): ...",
)


def guarded(class_: str, *expected: str, last_hook: str = "on_train_epoch_end") -> Rewrite:
    """Raise an error on all ranks, in the models of this base class; `last_hook` follows the last step.

    The `expected` methods of the class show which version of Lightning it is for.
    """
    end = f"def {last_hook}(self):\n    super().{last_hook}()\n    failures.finish_training(self)\n"
    return Rewrite(
        (
            Change(class_, old=FIT_START, new=f"{FIT_START}\n{STEP_HOOKS}\n{end}"),
            *(Change(class_, old=method) for method in expected),
        ),
        imports=("failures",),
        absent={class_: (*ABSENT, f"def {last_hook}(self): ...")},
    )


# In Lightning 1.6 one rank reduces the losses of an epoch before `on_train_epoch_end`, and the others after it
WITH_LIGHTNING_1 = {
    f"{COMMON}_base_windows.py": guarded("BaseWindows", EPOCH_END_OF_LIGHTNING_1, last_hook="on_train_end"),
    f"{COMMON}_base_recurrent.py": guarded("BaseRecurrent", EPOCH_END_OF_LIGHTNING_1, last_hook="on_train_end"),
}
WITH_THREE_BASES = {
    f"{COMMON}_base_windows.py": guarded("BaseWindows"),
    f"{COMMON}_base_recurrent.py": guarded("BaseRecurrent"),
    f"{COMMON}_base_multivariate.py": guarded("BaseMultivariate"),
}

patch = Patch(
    id="error-on-one-rank",
    summary="a training step that fails on one rank makes the other ranks hang",
    symptoms=("Connection closed by peer",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/error-on-one-rank.md",
    variants={
        "<1.5": WITH_LIGHTNING_1,
        ">=1.5,<1.7": WITH_THREE_BASES,
        ">=1.7": {f"{COMMON}_base_model.py": guarded("BaseModel")},
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
