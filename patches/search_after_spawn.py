"""A search through Optuna fails at its first trial if the processes exist during a fit only.

The objective asks the model for its trainer, which after ddp_spawn or ddp_notebook is gone with the processes (issue
854 of Nixtla/neuralforecast). Upstream passes on the trainer (pull request 889, in 1.7.0); from 1.7.1 on the model
keeps its metrics, as with the patch.
"""

from nfpatch.catalog import ALREADY_FIXED, Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"

OBJECTIVE = "BaseAuto._optuna_tune_model.objective"
FIT = "trainer.fit(self, datamodule=datamodule)"
LOSS = 'return fitted_model.trainer.callback_metrics["valid_loss"].item()'
LOSS_OF_MODEL = 'return fitted_model.metrics["valid_loss"].item()'


def keep_metrics(class_: str) -> Rewrite:
    """Let the model keep the metrics of its trainer."""
    return Rewrite((Change(f"{class_}.fit", old=FIT, new=f"{FIT}\nself.metrics = trainer.callback_metrics"),))


patch = Patch(
    id="search-after-spawn",
    summary="a search through Optuna by ddp_spawn or in a notebook fails at its first trial",
    symptoms=("is not attached to a `Trainer`",),
    group="search",
    model="any",
    upstream="https://github.com/Nixtla/neuralforecast/pull/889",
    variants={
        "==1.6.4": {
            f"{COMMON}_base_windows.py": keep_metrics("BaseWindows"),
            f"{COMMON}_base_recurrent.py": keep_metrics("BaseRecurrent"),
            f"{COMMON}_base_multivariate.py": keep_metrics("BaseMultivariate"),
            f"{COMMON}_base_auto.py": Rewrite((Change(OBJECTIVE, old=LOSS, new=LOSS_OF_MODEL),)),
        }
    },
    unaffected={"<1.6.4": "this release does not search through Optuna", ">=1.7.0": "fixed upstream in 1.7.0"},
    unaffected_code={
        ALREADY_FIXED: {
            f"{COMMON}_base_auto.py": Rewrite(
                (), absent={OBJECTIVE: (LOSS, "metrics = fitted_model.trainer.callback_metrics")}
            )
        },
    },
    cases=(
        Case(
            "AutoNHITS",
            "Optuna",
            options={"mlp_units": [[8, 8], [8, 8], [8, 8]]},
            stage="search",
            launchers=("spawn", "fork"),
        ),
    ),
)
