"""On several devices, multivariate models are given only some of the series.

Lightning shards the series, but a multivariate model needs all of them in every batch: "The size of tensor a (2) must
match the size of tensor b (4)". SOFTS, whose layers do not depend on the number of series, trains with half of them
without an error. With the patch every device has all series, in one order, and its own windows. Upstream does the same
since 3.2.0 (pull request 1557), except for the order: each device shuffles the series on its own.
"""

from collections.abc import Mapping
from types import MappingProxyType

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

DATASET = "neuralforecast/tsdataset.py"
MODEL = "neuralforecast/common/_base_model.py"
MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"

KEYWORDS = "self.trainer_kwargs = trainer_kwargs"
UNSHARDED = 'self.trainer_kwargs.setdefault("use_distributed_sampler", False)'
COMMENT = "# Every device needs all series; the windows are sharded instead"


def base_multivariate(
    n_windows: str, anchor: str = KEYWORDS, absent: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> Rewrite:
    """Give each device all series and its own windows, in the base class of multivariate models up to 2.0.1."""
    create_windows, is_train = "BaseMultivariate._create_windows", 'if step == "train":'
    old = """
w_idxs = np.random.choice(
    n_windows,
    size=self.batch_size,
    replace=(n_windows < self.batch_size),
)
windows = windows[:, :, w_idxs, :]
"""
    new = """
w_idxs = sampling.draw_windows_of_all_series(self, n_windows)
windows = windows[:, :, w_idxs, :]
"""
    return Rewrite(
        (
            Change("BaseMultivariate.__init__", anchor, f"{anchor}\n{COMMENT}\n{UNSHARDED}"),
            Change(create_windows, f"n_windows = {n_windows}", inside=(is_train,)),
            Change(create_windows, old, new, inside=(is_train, "if self.batch_size is not None:")),
        ),
        imports=("sampling",),
        absent=absent,
    )


def base_model(*sharded: Change) -> Rewrite:
    """Give each device all series and a share of the windows, in the only base class from 3.0.0 to 3.1.9."""
    unsharded = f"{KEYWORDS}\n{COMMENT}\nif self.MULTIVARIATE:\n    {UNSHARDED}"
    return Rewrite(
        (Change("BaseModel.__init__", KEYWORDS, unsharded), *sharded),
        imports=("sampling",),
        absent={"BaseModel": ("def _shard_multivariate_windows(self, final_condition): ...",)},
    )


CREATED = 'windows_temporal, static, static_cols = self._create_windows(batch, step="train")'
SELECTED, COUNTED = "windows = windows[final_condition]", "n_windows = len(final_condition)"

ONE_ORDER = Rewrite(
    (
        Change(
            where="TimeSeriesDataModule.train_dataloader",
            old="""
loader = TimeSeriesLoader(
    self.dataset,
    batch_size=self.batch_size,
    shuffle=self.shuffle_train,
    drop_last=self.drop_last,
    **self.dataloaders_kwargs
)
""",
            new="""
sampler = sampling.train_sampler(self)
loader = TimeSeriesLoader(
    self.dataset,
    batch_size=self.batch_size,
    shuffle=self.shuffle_train and sampler is None,
    sampler=sampler,
    drop_last=self.drop_last,
    **self.dataloaders_kwargs
)
""",
        ),
    ),
    imports=("sampling",),
)

patch = Patch(
    id="multivariate-all-series",
    summary="on several devices, multivariate models are given only some of the series, or each in another order",
    symptoms=(
        "The size of tensor a (2) must match the size of tensor b",
        "mat1 and mat2 shapes cannot be multiplied",
    ),
    ambiguous=(
        "The size of tensor a (2) must match the size of tensor b",
        "mat1 and mat2 shapes cannot be multiplied",
    ),
    group="multi-process",
    model="any",
    upstream="the order is not fixed yet: docs/upstream/multivariate-all-series.md",
    variants={
        ">=1.5,<1.7": {MULTIVARIATE: base_multivariate("len(windows)")},
        "==1.7.0": {MULTIVARIATE: base_multivariate("windows.shape[2]")},
        # from here on the base class of all models sets `trainer_kwargs`
        ">=1.7.1,<3": {
            MULTIVARIATE: base_multivariate(
                "windows.shape[2]",
                anchor="self.n_series = n_series",
                absent={"BaseMultivariate.__init__": (KEYWORDS,)},
            )
        },
        "==3.0.0": {
            MODEL: base_model(
                Change(
                    "BaseModel._create_windows",
                    old=SELECTED,
                    new=f"{SELECTED}\nwindows = sampling.shard_windows(self, windows)",
                    inside=('if step == "train":',),
                ),
                Change(
                    "BaseModel._create_windows",
                    old="n_windows = windows.shape[0]",
                    inside=('if step == "train":', "if self.windows_batch_size is not None:"),
                ),
            ),
            DATASET: ONE_ORDER,
        },
        ">=3.0.1,<3.1.4": {
            MODEL: base_model(
                Change(
                    "BaseModel.training_step",
                    old=CREATED,
                    new=f"{CREATED}\nwindows_temporal = sampling.shard_windows(self, windows_temporal)",
                ),
            ),
            DATASET: ONE_ORDER,
        },
        ">=3.1.4,<3.2": {
            MODEL: base_model(
                Change(
                    "BaseModel.training_step",
                    old=COUNTED,
                    new=f"final_condition = sampling.shard_windows(self, final_condition)\n{COUNTED}",
                ),
            ),
            DATASET: ONE_ORDER,
        },
        # 3.2.0 shards the windows, but each device still shuffles the series on its own
        ">=3.2": {DATASET: ONE_ORDER},
    },
    unaffected={"<1.5": "this release has no multivariate models"},
    cases=(
        # before 1.7 the only one is StemGNN, which DDP refuses for another reason as well
        Case("StemGNN", "predict", stage="predict", releases=">=1.5,<1.7", requires=("stemgnn-backcast",)),
        Case("TSMixer", "predict", options={"ff_dim": 8}, stage="predict", releases="==1.7.0"),
        Case("MLPMultivariate", "predict", options={"hidden_size": 8}, stage="predict", releases=">=1.7.1,<3.2"),
        # The orders of the ranks are compared; with other launchers only one rank is left. They differ only if ranks
        # draw different numbers of windows, so each share of the windows must be larger than a batch.
        Case(
            "MLPMultivariate",
            "order of series",
            options={"hidden_size": 8, "windows_batch_size": 8},
            stage="predict",
            releases=">=3.2",
            launchers=("torchrun", "script"),
        ),
    ),
)
