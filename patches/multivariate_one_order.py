"""In one process, too, multivariate models see the series in a new order at every epoch.

Their layers have weights for each series, by its place, and at a forecast the series stand in the order of the data; so
what has been learned for one series is used for another. Upstream put that right in 1.7.0 (pull request 907) and lost
it in 3.0.0 (pull request 1023). The remedy makes one process learn otherwise, so it is applied by name only. What
several devices get without it, see `multivariate-all-series`: all of them one and the same order.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
LOADER = """
loader = TimeSeriesLoader(
    self.dataset,
    batch_size=self.batch_size,
    num_workers=self.num_workers,
    shuffle=True,
    drop_last=self.drop_last,
)
"""
INTERVAL = 'self.trainer_kwargs["val_check_interval"] = int(val_check_interval)'
FIT = """
return self._fit(
    dataset=dataset,
    batch_size=self.batch_size,
    valid_batch_size=self.valid_batch_size,
    val_size=val_size,
    test_size=test_size,
    random_seed=random_seed,
    distributed_config=distributed_config,
)
"""
TRAINS_IN_ORDER = FIT.replace(
    "    distributed_config", "    shuffle_train=not self.MULTIVARIATE,\n    distributed_config"
)


def unshuffled(interval: str) -> dict[str, Rewrite]:
    """The series in the order of the data, where the loader has no option for that."""
    shuffle = LOADER.replace("shuffle=True", 'shuffle=getattr(self, "shuffle_train", True)')
    return {
        "neuralforecast/tsdataset.py": Rewrite((Change("TimeSeriesDataModule.train_dataloader", LOADER, shuffle),)),
        f"{COMMON}_base_multivariate.py": Rewrite(
            (Change("BaseMultivariate.fit", old=interval, new=f"{interval}\ndatamodule.shuffle_train = False"),)
        ),
    }


MLP = Case("MLPMultivariate", "order of series", options={"hidden_size": 8}, stage="one-order")

patch = Patch(
    id="multivariate-one-order",
    summary="multivariate models see the series in a new order at every epoch, also in one process",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/multivariate-one-order.md",
    opt_in=True,
    variants={
        "==1.5.0": unshuffled(INTERVAL.replace("int(val_check_interval)", "val_check_interval")),
        ">=1.6,<1.7": unshuffled(INTERVAL),
        ">=3": {f"{COMMON}_base_model.py": Rewrite((Change("BaseModel.fit", old=FIT, new=TRAINS_IN_ORDER),))},
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
