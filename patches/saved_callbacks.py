"""A model with callbacks of the user's cannot be saved on several devices.

Lightning puts its own callbacks, the progress bar among them, into the very list that the user gave the model, and that
list is saved along with the hyper-parameters. The bar knows its trainer, and on the first process that knows the other
processes, which Lightning's own launcher has started: `save`, and each checkpoint during a training, end with
`cannot pickle '_thread.lock' object`. The patch takes what Lightning has added out of the list again, once the trainer
has one of its own, where there are several processes. With one process everything, the trainer and all, is saved along
as before.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
PREDICT_STEP = "def predict_step(self, batch, batch_idx): ..."
HOOK = '''
def configure_callbacks(self):
    """Keep what Lightning adds to the user's callbacks out of the list, which is saved along."""
    given = self.trainer_kwargs.get("callbacks")
    if self.trainer.world_size > 1 and isinstance(given, list):
        # Lightning 1 calls the class of all progress bars by another name
        bar = getattr(pl.callbacks, "ProgressBarBase", None) or pl.callbacks.ProgressBar
        added = (bar, pl.callbacks.ModelCheckpoint, pl.callbacks.ModelSummary)
        own = {type(callback) for callback in self.hparams_initial.get("callbacks") or ()}
        given[:] = [c for c in given if type(c) in own or not isinstance(c, added)]
    return super().configure_callbacks()
'''


def hooked(base: str) -> Rewrite:
    """The hook in this base class, which Lightning calls in each process before a training or a prediction."""
    return Rewrite((Change(base, old=PREDICT_STEP, new=f"{HOOK}\n{PREDICT_STEP}"),))


def in_bases(*names: str) -> dict[str, Rewrite]:
    """The same in each base class that models have in this release."""
    return {f"{COMMON}_base_{name}.py": hooked(f"Base{name.capitalize()}") for name in names}


patch = Patch(
    id="saved-callbacks",
    summary="a model with callbacks of the user's cannot be saved on several devices",
    symptoms=("cannot pickle '_thread.lock' object",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/saved-callbacks.md",
    variants={
        ">=1.1,<1.5": in_bases("windows", "recurrent"),
        ">=1.5,<3": in_bases("windows", "recurrent", "multivariate"),
        ">=3": in_bases("model"),
    },
    unaffected={"==1.0.0": "this release saves no options of its models"},
    cases=(
        Case(
            "NHITS",
            "own callbacks",
            options={"mlp_units": [[8, 8]] * 3},
            stage="own-callbacks",
            launchers=("torchrun", "script"),
        ),
    ),
)
