"""Multivariate models see the series in a new order at every epoch, even in a single process.

Their layers have weights for each position of a series, and in a forecast the series are in the order of the data; so
weights that were learned for one series are used for another. Upstream fixed that in 1.7.0 (pull request 907) and lost
the fix in 3.0.0 (pull request 1023). This patch changes what a single process learns, so it is opt-in. Without it,
`multivariate-all-series` still gives all devices the same order.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
INTERVAL = 'self.trainer_kwargs["val_check_interval"] = '


def load(shuffle: str) -> str:
    """The loader of the training up to 1.6.4."""
    return f"""
loader = TimeSeriesLoader(
    self.dataset,
    batch_size=self.batch_size,
    num_workers=self.num_workers,
    shuffle={shuffle},
    drop_last=self.drop_last,
)
"""


def fit(*more: str) -> str:
    """The last statement of `fit` from 3.0.0 on, with further arguments."""
    return f"""
return self._fit(
    dataset=dataset,
    batch_size=self.batch_size,
    valid_batch_size=self.valid_batch_size,
    val_size=val_size,
    test_size=test_size,
    random_seed=random_seed,
    distributed_config=distributed_config,
    {" ".join(more)}
)
"""


def unshuffled(interval: str) -> dict[str, Rewrite]:
    """Keep the series in the order of the data, in releases whose loader has no option for it."""
    loader = Change("TimeSeriesDataModule.train_dataloader", load("True"), load('getattr(self, "shuffle_train", True)'))
    training = Change("BaseMultivariate.fit", interval, f"{interval}\ndatamodule.shuffle_train = False")
    return {
        "neuralforecast/tsdataset.py": Rewrite((loader,)),
        f"{COMMON}_base_multivariate.py": Rewrite((training,)),
    }


IN_ORDER = Change("BaseModel.fit", fit(), fit("shuffle_train=not self.MULTIVARIATE,"))
MLP = Case("MLPMultivariate", "order of series", options={"hidden_size": 8}, stage="one-order")

patch = Patch(
    id="multivariate-one-order",
    summary="multivariate models see the series in a new order at every epoch, also in one process",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/multivariate-one-order.md",
    opt_in=True,
    variants={
        "==1.5.0": unshuffled(f"{INTERVAL}val_check_interval"),
        ">=1.6,<1.7": unshuffled(f"{INTERVAL}int(val_check_interval)"),
        ">=3": {f"{COMMON}_base_model.py": Rewrite((IN_ORDER,))},
    },
    unaffected={
        "<1.5": "this release has no multivariate models",
        ">=1.7,<3": "never affected: this release trains multivariate models in the order of the data",
    },
    cases=(
        Case(
            "StemGNN",
            "order of series",
            stage="one-order",
            releases=">=1.5,<1.7",
            requires=("multivariate-all-series", "stemgnn-backcast"),
        ),
        MLP._replace(releases=">=3,<3.2", requires=("multivariate-all-series",)),
        MLP._replace(releases=">=3.2"),
    ),
)
