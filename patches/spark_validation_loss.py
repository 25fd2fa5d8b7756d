"""On Spark the validation loss is the mean of the ranks' means, however many series each rank has.

Spark partitions the series by ranges of their ids, so that of three series one rank has one and another has two: the
series of the first rank counts twice. Early stopping and a search decide by this loss. From 3.2.1 on each rank's loss
has the weight of its windows (pull request 1571). The patch gives it the weight of the rank's series, which is the same
where all are validated over as many windows.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_model.py"

NO_VALIDATION = """
if self.val_size == 0:
    return
"""
WEIGHTED = f"spark.weight_validation_losses(self){NO_VALIDATION}"

patch = Patch(
    id="spark-validation-loss",
    summary="on Spark, the validation loss weights the series of one rank more than those of another",
    group="spark",
    model="any",
    upstream="https://github.com/Nixtla/neuralforecast/pull/1571",
    variants={
        ">=1.7.1,<3.2.1": {
            FILE: Rewrite(
                (Change("BaseModel.on_validation_epoch_end", old=NO_VALIDATION, new=WEIGHTED),), imports=("spark",)
            )
        }
    },
    unaffected={
        "<1.7.1": "this release does not train on Spark",
        ">=3.2.1": "fixed upstream in 3.2.1, pull request 1571",
    },
    cases=(Case("NHITS", "validation", options={"mlp_units": [[8, 8]] * 3}, stage="validate", launchers=("spark",)),),
)
