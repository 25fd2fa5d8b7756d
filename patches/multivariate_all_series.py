"""Multivariate models are given a share of the series.

Lightning deals the series out to the devices, but a multivariate model wants all of them in every batch: "The size of
tensor a (2) must match the size of tensor b (4)". SOFTS, whose layers do not know how many series there are, trains
with half of them and says nothing. So every device gets all series, in one order, and a share of the windows, as
upstream does since 3.2.0 (pull request 1557), but for the order: there each device shuffles the series for itself.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

DATASET = "neuralforecast/tsdataset.py"
MODEL = "neuralforecast/common/_base_model.py"
MULTIVARIATE = "neuralforecast/common/_base_multivariate.py"

# BaseMultivariate._create_windows, from 1.5.0 to 2.0.1
CREATE_WINDOWS = """
if step == "train":
    if self.val_size + self.test_size > 0:
        cutoff = -self.val_size - self.test_size
        temporal = temporal[:, :, :cutoff]
    temporal = self.padder(temporal)
    windows = temporal.unfold(
        dimension=-1, size=window_size, step=self.step_size
    )
    available_idx = temporal_cols.get_loc("available_mask")
    sample_condition = windows[:, available_idx, :, -self.h :]
    sample_condition = torch.sum(sample_condition, axis=2)
    sample_condition = torch.sum(
        sample_condition, axis=0
    )
    available_condition = windows[:, available_idx, :, : -self.h]
    available_condition = torch.sum(
        available_condition, axis=2
    )
    available_condition = torch.sum(
        available_condition, axis=0
    )
    final_condition = (sample_condition > 0) & (
        available_condition > 0
    )
    windows = windows[:, :, final_condition, :]
    static = batch.get("static", None)
    static_cols = batch.get("static_cols", None)
    if final_condition.sum() == 0:
        raise Exception("No windows available for training")
    n_windows = N_WINDOWS
    if self.batch_size is not None:
        DRAW
        windows = windows[:, :, w_idxs, :]
    windows = windows.permute(2, 1, 3, 0)
    windows_batch = dict(
        temporal=windows,
        temporal_cols=temporal_cols,
        static=static,
        static_cols=static_cols,
    )
    return windows_batch
elif step in ["predict", "val"]:
    if step == "predict":
        predict_step_size = self.predict_step_size
        cutoff = -self.input_size - self.test_size
        temporal = batch["temporal"][:, :, cutoff:]
    elif step == "val":
        predict_step_size = self.step_size
        cutoff = -self.input_size - self.val_size - self.test_size
        if self.test_size > 0:
            temporal = batch["temporal"][:, :, cutoff : -self.test_size]
        else:
            temporal = batch["temporal"][:, :, cutoff:]
    if (
        (step == "predict")
        and (self.test_size == 0)
        and (len(self.futr_exog_list) == 0)
    ):
        temporal = self.padder(temporal)
    windows = temporal.unfold(
        dimension=-1, size=window_size, step=predict_step_size
    )
    windows = windows.permute(2, 1, 3, 0)
    static = batch.get("static", None)
    static_cols = batch.get("static_cols", None)
    windows_batch = dict(
        temporal=windows,
        temporal_cols=temporal_cols,
        static=static,
        static_cols=static_cols,
    )
    return windows_batch
else:
    raise ValueError(f"Unknown step {step}")
"""

DRAW_ALONE = """
        w_idxs = np.random.choice(
            n_windows,
            size=self.batch_size,
            replace=(n_windows < self.batch_size),
        )
"""

# The devices' random states are alike, so that they draw the same windows
DRAW_TOGETHER = """
        # The devices draw the same windows: a batch for each of them, of which each takes its own
        n_devices = 1 if self._trainer is None else self._trainer.world_size
        n_drawn = self.batch_size * n_devices
        w_idxs = np.random.choice(n_windows, size=n_drawn, replace=(n_windows < n_drawn))
        w_idxs = w_idxs[self.global_rank :: n_devices]
"""

# BaseModel._create_windows of 3.0.0
CREATE_WINDOWS_3_0_0 = """
if step == "train":
    if self.val_size + self.test_size > 0:
        cutoff = -self.val_size - self.test_size
        temporal = temporal[:, :, :cutoff]
    temporal = self.padder_train(temporal)
    if temporal.shape[-1] < window_size:
        raise Exception(
            "Time series is too short for training, consider setting a smaller input size "
            "or set start_padding_enabled=True"
        )
    windows = temporal.unfold(
        dimension=-1, size=window_size, step=self.step_size
    )
    if self.MULTIVARIATE:
        windows = windows.permute(2, 3, 1, 0)
    else:
        windows_per_serie = windows.shape[2]
        windows = windows.permute(0, 2, 3, 1)
        windows = windows.flatten(0, 1)
        windows = windows.unsqueeze(-1)
    available_idx = temporal_cols.get_loc("available_mask")
    available_condition = windows[:, : self.input_size, available_idx]
    available_condition = torch.sum(
        available_condition, axis=(1, -1)
    )
    final_condition = available_condition > 0
    if self.h > 0:
        sample_condition = windows[:, self.input_size :, available_idx]
        sample_condition = torch.sum(
            sample_condition, axis=(1, -1)
        )
        final_condition = (sample_condition > 0) & (available_condition > 0)
    WINDOWS
    static = batch.get("static", None)
    static_cols = batch.get("static_cols", None)
    if static is not None and not self.MULTIVARIATE:
        static = torch.repeat_interleave(
            static, repeats=windows_per_serie, dim=0
        )
        static = static[final_condition]
    if final_condition.sum() == 0:
        raise Exception("No windows available for training")
    if self.windows_batch_size is not None:
        n_windows = windows.shape[0]
        w_idxs = np.random.choice(
            n_windows,
            size=self.windows_batch_size,
            replace=(n_windows < self.windows_batch_size),
        )
        windows = windows[w_idxs]
        if static is not None and not self.MULTIVARIATE:
            static = static[w_idxs]
    windows_batch = dict(
        temporal=windows,
        temporal_cols=temporal_cols,
        static=static,
        static_cols=static_cols,
    )
    return windows_batch
elif step in ["predict", "val"]:
    if step == "predict":
        initial_input = temporal.shape[-1] - self.test_size
        if (
            initial_input <= self.input_size
        ):
            temporal = F.pad(
                temporal,
                pad=(self.input_size - initial_input, 0),
                mode="constant",
                value=0.0,
            )
        predict_step_size = self.predict_step_size
        cutoff = -self.input_size - self.test_size
        temporal = temporal[:, :, cutoff:]
    elif step == "val":
        predict_step_size = self.step_size
        cutoff = -self.input_size - self.val_size - self.test_size
        if self.test_size > 0:
            temporal = batch["temporal"][:, :, cutoff : -self.test_size]
        else:
            temporal = batch["temporal"][:, :, cutoff:]
        if temporal.shape[-1] < window_size:
            initial_input = temporal.shape[-1] - self.val_size
            temporal = F.pad(
                temporal,
                pad=(self.input_size - initial_input, 0),
                mode="constant",
                value=0.0,
            )
    if (
        (step == "predict")
        and (self.test_size == 0)
        and (len(self.futr_exog_list) == 0)
    ):
        temporal = F.pad(temporal, pad=(0, self.h), mode="constant", value=0.0)
    windows = temporal.unfold(
        dimension=-1, size=window_size, step=predict_step_size
    )
    static = batch.get("static", None)
    static_cols = batch.get("static_cols", None)
    if self.MULTIVARIATE:
        windows = windows.permute(2, 3, 1, 0)
    else:
        windows_per_serie = windows.shape[2]
        windows = windows.permute(0, 2, 3, 1)
        windows = windows.flatten(0, 1)
        windows = windows.unsqueeze(-1)
        if static is not None:
            static = torch.repeat_interleave(
                static, repeats=windows_per_serie, dim=0
            )
    if w_idxs is not None:
        windows = windows[w_idxs]
        if static is not None and not self.MULTIVARIATE:
            static = static[w_idxs]
    windows_batch = dict(
        temporal=windows,
        temporal_cols=temporal_cols,
        static=static,
        static_cols=static_cols,
    )
    return windows_batch
else:
    raise ValueError(f"Unknown step {step}")
"""


def windows_drawn_together(n_windows: str) -> Change:
    """Each device its own windows, in the base class of its own that multivariate models had up to 2.0.1."""
    text = CREATE_WINDOWS.replace("N_WINDOWS", n_windows)
    return Change(
        where="BaseMultivariate._create_windows",
        old=text.replace("        DRAW\n", DRAW_ALONE.lstrip("\n")),
        new=text.replace("        DRAW\n", DRAW_TOGETHER.lstrip("\n")),
    )


def not_dealt_out(where: str, beside: str, condition: str = "") -> Change:
    """Lightning leaves the series alone, unless the user says otherwise."""
    setting = 'self.trainer_kwargs.setdefault("use_distributed_sampler", False)'
    comment = "# Every device needs all series: the windows are dealt out instead"
    lines = [beside, comment, *([condition, "    " + setting] if condition else [setting])]
    return Change(where=where, old=beside, new="\n".join(lines))


KEYWORDS = "self.trainer_kwargs = trainer_kwargs"

SHARD_WINDOWS = Change(
    where="BaseModel",
    old="def _inv_normalization(self, y_hat, y_idx): ...",
    new='''
def _inv_normalization(self, y_hat, y_idx): ...

def _shard_multivariate_windows(self, windows):
    """Every device has all series of a multivariate model, and its own share of the windows."""
    if not self.MULTIVARIATE or self._trainer is None:
        return windows
    n_devices = self._trainer.world_size
    # Fewer windows than devices are not dealt out: no device may be left without any
    if len(windows) < n_devices:
        return windows
    return windows[self.global_rank :: n_devices]
''',
)

MODEL_INIT = not_dealt_out("BaseModel.__init__", KEYWORDS, "if self.MULTIVARIATE:")

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
sampler = None
if self.trainer is not None and self.trainer.world_size > 1:
    model = self.trainer.lightning_module
    if model.MULTIVARIATE:
        # Every device has all series, in an order that does not hang on its random state
        sampler = torch.utils.data.DistributedSampler(
            self.dataset,
            num_replicas=1,
            rank=0,
            shuffle=self.shuffle_train,
            seed=model.random_seed,
        )
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
    )
)


def windows_sharded(beside: str, name: str, is_before: bool = False) -> Change:
    """Each device its own windows, in the training step."""
    own = f"{name} = self._shard_multivariate_windows({name})"
    return Change(
        where="BaseModel.training_step", old=beside, new=f"{own}\n{beside}" if is_before else f"{beside}\n{own}"
    )


patch = Patch(
    id="multivariate-all-series",
    summary="multivariate models are given a share of the series on several devices, or each in another order",
    symptoms=(
        "The size of tensor a (2) must match the size of tensor b",
        "mat1 and mat2 shapes cannot be multiplied",
    ),
    group="multi-process",
    model="any",
    upstream="the order is not fixed yet: docs/upstream/multivariate-all-series.md",
    variants={
        ">=1.5,<1.7": {
            MULTIVARIATE: Rewrite(
                (
                    not_dealt_out("BaseMultivariate.__init__", KEYWORDS),
                    windows_drawn_together("len(windows)"),
                )
            )
        },
        "==1.7.0": {
            MULTIVARIATE: Rewrite(
                (
                    not_dealt_out("BaseMultivariate.__init__", KEYWORDS),
                    windows_drawn_together("windows.shape[2]"),
                )
            )
        },
        ">=1.7.1,<3": {
            MULTIVARIATE: Rewrite(
                (
                    not_dealt_out("BaseMultivariate.__init__", "self.n_series = n_series"),
                    windows_drawn_together("windows.shape[2]"),
                )
            )
        },
        "==3.0.0": {
            MODEL: Rewrite(
                (
                    MODEL_INIT,
                    SHARD_WINDOWS,
                    Change(
                        where="BaseModel._create_windows",
                        old=CREATE_WINDOWS_3_0_0.replace("WINDOWS", "windows = windows[final_condition]"),
                        new=CREATE_WINDOWS_3_0_0.replace(
                            "    WINDOWS",
                            "    windows = windows[final_condition]\n"
                            "    windows = self._shard_multivariate_windows(windows)",
                        ),
                    ),
                )
            ),
            DATASET: ONE_ORDER,
        },
        ">=3.0.1,<3.1.4": {
            MODEL: Rewrite(
                (
                    MODEL_INIT,
                    SHARD_WINDOWS,
                    windows_sharded(
                        'windows_temporal, static, static_cols = self._create_windows(batch, step="train")',
                        "windows_temporal",
                    ),
                )
            ),
            DATASET: ONE_ORDER,
        },
        ">=3.1.4,<3.2": {
            MODEL: Rewrite(
                (
                    MODEL_INIT,
                    SHARD_WINDOWS,
                    windows_sharded("n_windows = len(final_condition)", "final_condition", is_before=True),
                )
            ),
            DATASET: ONE_ORDER,
        },
        # 3.2.0 deals the windows out, and still shuffles the series on each device for itself
        ">=3.2": {DATASET: ONE_ORDER},
    },
    unaffected={"<1.5": "this release has no multivariate models"},
    cases=(
        # before 1.7 there is StemGNN alone, which DDP refuses for another reason: its forecasts are no proof of this
        Case("TSMixer", "predict", options={"ff_dim": 8}, stage="predict", releases="==1.7.0"),
        Case("MLPMultivariate", "predict", options={"hidden_size": 8}, stage="predict", releases=">=1.7.1,<3.2"),
        # of the order tells each rank by itself, which the other launchers leave one of
        Case(
            "MLPMultivariate",
            "order of series",
            options={"hidden_size": 8},
            stage="predict",
            releases=">=3.2",
            launchers=("torchrun", "script"),
        ),
    ),
)
