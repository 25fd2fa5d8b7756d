"""On Spark, `fit` forgets what a model has learned or loaded.

Each process makes the model anew from its options, lest weights be sent around. So a second `fit` starts where the
first one did, and a model that was loaded is trained from scratch, without a word; in one process both go on. The patch
sends the weights of a model that has other ones than when it was made.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

INTERVAL = "val_check_interval = min(self.val_check_steps, self.max_steps)"
SENT = f"""
if not is_local:
    # The processes make the model anew: only what it has learned since is sent to them
    made = type(self)(**deepcopy(dict(self.hparams))).state_dict()
    learned = {{name: each.detach().cpu() for name, each in self.state_dict().items()}}
    if any(not torch.equal(each, made[name].cpu()) for name, each in learned.items()):
        datamodule.weights = learned
{INTERVAL}
"""
IMPORT = "import torch.distributed as dist"
TAKEN = f"""
{IMPORT}

if hasattr(self, "weights"):
    self.trainer.lightning_module.load_state_dict(self.weights)
"""

patch = Patch(
    id="spark-fit-from-weights",
    summary="on Spark, fit starts anew with a model that has been trained or loaded",
    group="spark",
    model="any",
    upstream="not fixed yet: docs/upstream/spark-fit-from-weights.md",
    variants={
        ">=1.7.1": {
            "neuralforecast/common/_base_model.py": Rewrite((Change("BaseModel._fit", old=INTERVAL, new=SENT),)),
            "neuralforecast/tsdataset.py": Rewrite(
                (Change("_DistributedTimeSeriesDataModule.setup", old=IMPORT, new=TAKEN),)
            ),
        },
    },
    unaffected={"<1.7.1": "this release knows no Spark"},
    cases=(Case("NHITS", "fit again", options={"mlp_units": [[8, 8]] * 3}, stage="refit", launchers=("spark",)),),
)
