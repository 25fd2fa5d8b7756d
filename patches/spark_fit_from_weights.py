"""On Spark, `fit` ignores the weights that a model has from a training or a file.

Each process constructs the model again from its options, without its weights. So a second `fit` starts from the initial
weights, and a loaded model is trained from scratch, without any message; in one process both continue. The patch sends
the weights of a model if they differ from its initial ones.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

INTERVAL = "val_check_interval = min(self.val_check_steps, self.max_steps)"
IMPORT = "import torch.distributed as dist"


def before(function: str, statement: str, hook: str) -> Rewrite:
    """Add a hook before this statement of a function."""
    return Rewrite((Change(function, old=statement, new=f"{hook}\n{statement}"),), imports=("spark",))


ATTACH = before("BaseModel._fit", INTERVAL, "if not is_local:\n    spark.attach_weights(self, datamodule)")
LOAD = before("_DistributedTimeSeriesDataModule.setup", IMPORT, "spark.load_weights(self)")

patch = Patch(
    id="spark-fit-from-weights",
    summary="on Spark, fit of a model that has been trained or loaded starts from scratch",
    group="spark",
    model="any",
    upstream="not fixed yet: docs/upstream/spark-fit-from-weights.md",
    variants={">=1.7.1": {"neuralforecast/common/_base_model.py": ATTACH, "neuralforecast/tsdataset.py": LOAD}},
    unaffected={"<1.7.1": "this release does not train on Spark"},
    cases=(Case("NHITS", "fit again", options={"mlp_units": [[8, 8]] * 3}, stage="refit", launchers=("spark",)),),
)
