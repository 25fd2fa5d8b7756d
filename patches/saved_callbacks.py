"""A model with the user's callbacks cannot be saved by several ranks.

Lightning adds its own callbacks, the progress bar among them, to the very list that the user gave the model, and that
list is saved along with the hyperparameters. The bar refers to its trainer, and on rank 0 that refers to the other
processes, which Lightning's own launcher has started: `save`, and each checkpoint during a training, fail with `cannot
pickle '_thread.lock' object`. The patch removes what Lightning has added from the list, once the trainer has one of its
own, where there are several ranks. With one process everything, the trainer included, is saved along as before.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
VALIDATION_STEP = "def validation_step(self, batch, batch_idx): ..."
VALIDATION_END = "def on_validation_epoch_end(self): ..."
# Lightning calls it in each process before a training or a prediction
HOOK = """
def configure_callbacks(self):
    user_callbacks.remove_added_callbacks(self)
    return super().configure_callbacks()
"""


def hooked(class_: str, after: str = VALIDATION_STEP) -> Rewrite:
    """The hook in this base class, after one of its methods."""
    return Rewrite(
        (Change(class_, old=after, new=f"{after}\n{HOOK}"),),
        imports=("user_callbacks",),
        absent={class_: ("def configure_callbacks(self): ...",)},
    )


WINDOWS = {f"{COMMON}_base_windows.py": hooked("BaseWindows")}
RECURRENT = {f"{COMMON}_base_recurrent.py": hooked("BaseRecurrent")}
MULTIVARIATE = {f"{COMMON}_base_multivariate.py": hooked("BaseMultivariate")}

patch = Patch(
    id="saved-callbacks",
    summary="a model with the user's callbacks cannot be saved by several ranks",
    symptoms=("cannot pickle '_thread.lock' object",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/saved-callbacks.md",
    variants={
        ">=1.1,<1.5": {**WINDOWS, **RECURRENT},
        ">=1.5,<1.7": {**WINDOWS, **RECURRENT, **MULTIVARIATE},
        ">=1.7": {f"{COMMON}_base_model.py": hooked("BaseModel", after=VALIDATION_END)},
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
