"""On Spark the validation loss is the mean of the ranks' means, however many series each has.

Spark deals the series out by ranges of their ids, so that one rank has one of three and another has two: the first
counts twice. Early stopping chooses by it, and so does a search. From 3.2.1 on every rank's loss has the weight of its
windows (pull request 1571). The patch gives it the weight of the rank's series, which is the same where all are
validated over as many windows.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_model.py"

NO_VALIDATION = """
if self.val_size == 0:
    return
"""
WEIGHTED = f"""
datamodule = self.trainer.datamodule
if hasattr(datamodule, "files_ds"):
    # Each rank validates its own series, and the mean of the ranks is taken
    n_series = torch.tensor(float(datamodule.dataset.n_groups), device=self.device)
    weight = n_series / self.all_gather(n_series).mean()
    self.validation_step_outputs = [
        loss * weight for loss in self.validation_step_outputs
    ]
{NO_VALIDATION}
"""

patch = Patch(
    id="spark-validation-loss",
    summary="on Spark, the validation loss counts the series of one device more than those of another",
    group="spark",
    model="any",
    upstream="https://github.com/Nixtla/neuralforecast/pull/1571",
    variants={
        ">=1.7.1,<3.2.1": {
            FILE: Rewrite((Change("BaseModel.on_validation_epoch_end", old=NO_VALIDATION, new=WEIGHTED),))
        }
    },
    unaffected={
        "<1.7.1": "this release knows no Spark",
        ">=3.2.1": "fixed upstream in 3.2.1, pull request 1571",
    },
    cases=(Case("NHITS", "validation", options={"mlp_units": [[8, 8]] * 3}, stage="validate", launchers=("spark",)),),
)
