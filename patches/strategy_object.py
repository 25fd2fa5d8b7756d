"""A strategy object works for one trainer only, but a model is trained by many.

`DDPStrategy(find_unused_parameters=...)`, which Lightning's own messages recommend, is passed by the model to a new
trainer for each `fit`, and Lightning rejects a strategy that another trainer had. So a second `fit` raises an error,
and a `cross_validation` after a `fit` as well; up to 1.5.0, whose `NeuralForecast` does not copy models, so does a
second model with it. The patch gives each training a copy of the untouched one.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"


def copied_in(function: str, model: str = "self", inside: tuple[str, ...] = ()) -> Rewrite:
    """Give the trainer its own strategy, in this function, which trains the model."""
    trainer = f"trainer = pl.Trainer(**{model}.trainer_kwargs)"
    fresh = f"trainer = pl.Trainer(**strategies.with_fresh_strategy({model}.trainer_kwargs))"
    return Rewrite((Change(function, old=trainer, new=fresh, inside=inside),), imports=("strategies",))


WINDOWS = {f"{COMMON}_base_windows.py": copied_in("BaseWindows.fit")}
RECURRENT = {f"{COMMON}_base_recurrent.py": copied_in("BaseRecurrent.fit")}
MULTIVARIATE = {f"{COMMON}_base_multivariate.py": copied_in("BaseMultivariate.fit")}
MODEL = f"{COMMON}_base_model.py"

patch = Patch(
    id="strategy-object",
    summary="with a strategy object (DDPStrategy(...)) a model can be trained only once",
    symptoms=("accelerator set through both strategy class and accelerator flag, choose one",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/strategy-object.md",
    variants={
        "<1.5": {**WINDOWS, **RECURRENT},
        ">=1.5,<1.7": {**WINDOWS, **RECURRENT, **MULTIVARIATE},
        "==1.7.0": {MODEL: copied_in("BaseModel._fit")},
        ">=1.7.1": {MODEL: copied_in("BaseModel._fit", "model", inside=("if is_local:",))},
    },
    unaffected={},
    cases=(
        Case(
            "NHITS",
            "strategy object",
            options={"mlp_units": [[8, 8]] * 3},
            stage="strategy-object",
            launchers=("torchrun", "script"),
        ),
    ),
)
