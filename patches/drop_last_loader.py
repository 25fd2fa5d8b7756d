"""With `drop_last_loader=True` several processes may have no batch left, and `fit` returns an untrained model.

Each process gets a share of the series. Where it is less than a batch, that batch is dropped, and Lightning skips the
training without a word; one process has batches. What is asked for cannot be had, so the patch says what to set. It
does so in each process, also in those of ddp_spawn, whose trainer nobody else sees.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

OPTIMIZERS = "def configure_optimizers(self): ..."
END = """
def on_fit_end(self):
    super().on_fit_end()
    trainer = self.trainer
    is_skipped = trainer.num_training_batches == 0 and trainer.limit_train_batches
    if self.drop_last_loader and is_skipped and trainer.world_size > 1:
        raise ValueError(
            f"drop_last_loader=True has left no batch: each of {trainer.world_size} processes has "
            f"fewer series than batch_size={self.batch_size}. Set batch_size to at most the "
            "number of series divided by that of processes, or drop_last_loader=False."
        )
"""


def refuse_in(base: str) -> Rewrite:
    """Refuse an empty training at its end, in this base class."""
    return Rewrite((Change(base, old=OPTIMIZERS, new=f"{END}\n{OPTIMIZERS}"),))


FOLDER = "neuralforecast/common"

patch = Patch(
    id="drop-last-loader",
    summary="with drop_last_loader=True fit may return an untrained model, as no device has a whole batch",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/drop-last-loader.md",
    variants={
        "<1.7": {
            f"{FOLDER}/_base_windows.py": refuse_in("BaseWindows"),
            f"{FOLDER}/_base_recurrent.py": refuse_in("BaseRecurrent"),
        },
        ">=1.7": {f"{FOLDER}/_base_model.py": refuse_in("BaseModel")},
    },
    unaffected={},
    # Lightning's own launcher ends the other processes where one raises.
    cases=(
        Case(
            "NHITS", "drop_last_loader", options={"mlp_units": [[8, 8]] * 3}, stage="no-batch", launchers=("torchrun",)
        ),
    ),
)
