"""On Spark the validation loss is the mean of the ranks' means, however many series each rank has.

Spark partitions the series by ranges of their ids, so that of three series one rank has one and another has two: the
series of the first rank counts twice. Early stopping and searches use this loss. From 3.2.1 on each rank's loss has the
weight of its windows (pull request 1571). The patch weights it by the rank's number of series, which is equivalent if
all series are validated on equally many windows.
"""

from nfpatch.catalog import ALREADY_FIXED, Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_model.py"

NO_VALIDATION = """
if self.val_size == 0:
    return
"""
WEIGHTED = f"spark.weight_validation_losses(self){NO_VALIDATION}"


def weighted(*mean: str) -> dict[str, Rewrite]:
    """Weight the losses before these statements compute their mean, which Lightning reduces over the ranks."""
    where = "BaseModel.on_validation_epoch_end"
    changes = (Change(where, old=NO_VALIDATION, new=WEIGHTED), *(Change(where, old=each) for each in mean))
    return {FILE: Rewrite(changes, imports=("spark",))}


patch = Patch(
    id="spark-validation-loss",
    summary="on Spark, the validation loss weights the series of one rank more than those of another",
    group="spark",
    model="any",
    upstream="https://github.com/Nixtla/neuralforecast/pull/1571",
    variants={
        "==1.7.1": weighted(
            "avg_loss = torch.stack(self.validation_step_outputs).mean()",
            'self.log("ptl/val_loss", avg_loss, sync_dist=True)',
        ),
        ">=1.7.2,<3.2.1": weighted("losses = torch.stack(self.validation_step_outputs)"),
    },
    unaffected={
        "<1.7.1": "this release does not train on Spark",
        ">=3.2.1": "fixed upstream in 3.2.1, pull request 1571",
    },
    unaffected_code={
        ALREADY_FIXED: {
            FILE: Rewrite(
                (
                    Change(
                        "BaseModel.on_validation_epoch_end",
                        old="totals = self.all_gather(stacked.sum(dim=0)).reshape(-1, 2).sum(dim=0)",
                    ),
                )
            )
        },
    },
    cases=(Case("NHITS", "validation", options={"mlp_units": [[8, 8]] * 3}, stage="validate", launchers=("spark",)),),
)
