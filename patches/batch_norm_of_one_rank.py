"""After a training on several ranks, each has its own statistics of batch normalization.

DDP broadcasts the running statistics of rank 0 before each training step, in which each rank then adds its own batch.
What the last step adds is not broadcast, unless a validation follows it. So a model with batch normalization (Informer,
PatchTST, TSMixer, RMoK, DeepNPTS) forecasts differently on each rank, and the rank that saves last determines which one
is saved.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
SET_TEST_SIZE = "def set_test_size(self, test_size): ..."
HOOK = """
def on_train_end(self):
    super().on_train_end()
    batch_norm.broadcast_statistics(self)
"""


def broadcast_in(class_: str) -> Rewrite:
    """Broadcast the statistics of rank 0, as DDP does before each step; with Lightning 2."""
    return Rewrite(
        (
            Change(class_, old=SET_TEST_SIZE, new=f"{SET_TEST_SIZE}\n{HOOK}"),
            Change(class_, old="def on_validation_epoch_end(self): ..."),
        ),
        imports=("batch_norm",),
        absent={class_: ("def on_train_end(self): ...",)},
    )


BY_RANKS = ("torchrun", "script")  # with other launchers one process is left after a fit
# Three training steps, of which the second is followed by a validation
PATCHTST = {
    "hidden_size": 8,
    "n_heads": 2,
    "linear_hidden_size": 8,
    "encoder_layers": 1,
    "val_check_steps": 2,
}

patch = Patch(
    id="batch-norm-of-one-rank",
    summary="models with batch normalization forecast differently on each rank",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/batch-norm-of-one-rank.md",
    variants={
        ">=1.5,<1.7": {f"{COMMON}_base_windows.py": broadcast_in("BaseWindows")},
        ">=1.7": {f"{COMMON}_base_model.py": broadcast_in("BaseModel")},
    },
    unaffected={"<1.5": "no model of this release has batch normalization"},
    cases=(Case("PatchTST", "batch norm", options=PATCHTST, stage="refit", launchers=BY_RANKS, releases=">=1.5"),),
)
