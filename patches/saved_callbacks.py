"""A model with the user's callbacks cannot be saved by several ranks.

Lightning adds its own callbacks, such as the progress bar, to the list that the user passed to the model, and this list
is saved with the hyperparameters. The bar refers to its trainer, and on rank 0 that refers to the other processes,
which Lightning's own launcher has started: `save`, and each checkpoint during a training, fail with `cannot pickle
'_thread.lock' object`. If there are several ranks, the patch removes the added callbacks from the list after the
trainer has made its own. With one process everything, including the trainer, is saved as before.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
VALIDATION_STEP = "def validation_step(self, batch, batch_idx): ..."
VALIDATION_END = "def on_validation_epoch_end(self): ..."
VALIDATION_END_OF_LIGHTNING_1 = "def validation_epoch_end(self, outputs): ..."
# Lightning calls it in each process before a training or a prediction
HOOK = """
def configure_callbacks(self):
    user_callbacks.remove_added_callbacks(self)
    return super().configure_callbacks()
"""


def hooked(class_: str, *expected: Change, after: str = VALIDATION_STEP) -> Rewrite:
    """The hook in this base class, after one of its methods, which is expected to be there."""
    return Rewrite(
        (Change(class_, old=after, new=f"{after}\n{HOOK}"), *expected),
        imports=("user_callbacks",),
        absent={class_: ("def configure_callbacks(self): ...",)},
    )


def in_bases(epoch_end: str, **names: str) -> dict[str, Rewrite]:
    """The hook in these base classes (ends of their file names), which have this method and save their options."""
    return {
        f"{COMMON}_base_{name}.py": hooked(
            class_, Change(class_, old=epoch_end), Change(f"{class_}.__init__", old="self.save_hyperparameters()")
        )
        for name, class_ in names.items()
    }


BASES = {"windows": "BaseWindows", "recurrent": "BaseRecurrent"}

patch = Patch(
    id="saved-callbacks",
    summary="a model with the user's callbacks cannot be saved by several ranks",
    symptoms=("cannot pickle '_thread.lock' object",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/saved-callbacks.md",
    variants={
        ">=1.1,<1.5": in_bases(VALIDATION_END_OF_LIGHTNING_1, **BASES),
        ">=1.5,<1.7": in_bases(VALIDATION_END, **BASES, multivariate="BaseMultivariate"),
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
