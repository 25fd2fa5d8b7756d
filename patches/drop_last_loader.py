"""With `drop_last_loader=True` several ranks may have no batch left, and `fit` returns an untrained model.

Each rank gets a shard of the series. If it is smaller than a batch, that batch is dropped, and Lightning skips the
training silently, although a single process has batches. No batch can be formed, so the patch raises an error that says
which settings to change, in each process, including those of ddp_spawn, which have their own trainers.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

OPTIMIZERS = "def configure_optimizers(self): ..."
HOOK = """
def on_fit_end(self):
    super().on_fit_end()
    drop_last.refuse_empty_training(self)
"""


def refuse_in(class_: str) -> Rewrite:
    """Raise an error at the end of an empty training, in this base class."""
    return Rewrite(
        (Change(class_, old=OPTIMIZERS, new=f"{OPTIMIZERS}\n{HOOK}"),),
        imports=("drop_last",),
        absent={class_: ("def on_fit_end(self): ...",)},
    )


FOLDER = "neuralforecast/common"

patch = Patch(
    id="drop-last-loader",
    summary="with drop_last_loader=True fit may return an untrained model, as no rank has a whole batch",
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
    # Lightning's own launcher terminates the other processes if one raises.
    cases=(
        Case(
            "NHITS", "drop_last_loader", options={"mlp_units": [[8, 8]] * 3}, stage="no-batch", launchers=("torchrun",)
        ),
    ),
)
