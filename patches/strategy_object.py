"""A strategy that is an object serves one trainer only, and a model is trained by many.

`DDPStrategy(find_unused_parameters=...)`, which Lightning's own messages advise, goes from the model into a new trainer
for each `fit`, and Lightning refuses a strategy that another trainer had. So a second `fit` ends with an error, and a
`cross_validation` after a `fit`; up to 1.5.0, whose `NeuralForecast` does not copy models, a second model with it as
well. The patch gives each training a copy of the untouched one.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
BASES = ("windows", "recurrent", "multivariate")
SET_TEST_SIZE = "def set_test_size(self, test_size): ..."

WRAPPED = '''
def _with_a_strategy_of_its_own(fit):
    """Let each training have a copy of a strategy object, which serves one trainer only."""

    def fit_with_a_copy(self, *args, **kwargs):
        from copy import deepcopy

        given = self.trainer_kwargs.get("strategy")
        if given is None or isinstance(given, str):
            return fit(self, *args, **kwargs)
        self.trainer_kwargs["strategy"] = deepcopy(given)
        try:
            return fit(self, *args, **kwargs)
        finally:
            self.trainer_kwargs["strategy"] = given

    return fit_with_a_copy

_fit = _with_a_strategy_of_its_own(_fit)
'''


def copied_in(base: str) -> Rewrite:
    """A trainer with a strategy of its own, in the `fit` of this base class."""
    return Rewrite(
        (
            Change(
                f"{base}.fit",
                old="trainer = pl.Trainer(**self.trainer_kwargs)",
                new="""
from copy import deepcopy

# A strategy object serves one trainer only
own = {k: deepcopy(v) for k, v in self.trainer_kwargs.items() if k == "strategy"}
trainer = pl.Trainer(**{**self.trainer_kwargs, **own})
""",
            ),
        )
    )


def in_bases(*names: str) -> dict[str, Rewrite]:
    """The same in each base class that models have in this release."""
    return {f"{COMMON}_base_{name}.py": copied_in(f"Base{name.capitalize()}") for name in names}


patch = Patch(
    id="strategy-object",
    summary="with a strategy object (DDPStrategy(...)) a model can be trained only once",
    symptoms=("accelerator set through both strategy class and accelerator flag, choose one",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/strategy-object.md",
    variants={
        "<1.5": in_bases(*BASES[:2]),
        ">=1.5,<1.7": in_bases(*BASES),
        ">=1.7": {
            f"{COMMON}_base_model.py": Rewrite(
                (Change("BaseModel", old=SET_TEST_SIZE, new=f"{SET_TEST_SIZE}\n{WRAPPED}"),)
            )
        },
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
