"""Devices that have the same series train on the same windows, so that the further ones buy nothing.

Lightning deals the series out, and where there are fewer than devices, several get the same one. All draw windows by
the same random numbers: with one series each computes the very gradient that the others compute. The patch lets all
draw windows for all of them, of which each takes its own: N devices train on one series as one with N times the
`windows_batch_size` does. Recurrent models up to 2.0.1 draw one place in time, which is another on each device then.
Where all windows are asked for (`windows_batch_size=None`), each device has them all.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

PARSE_WINDOWS = "def _parse_windows(self, batch, windows): ..."
DEVICES = '''
def _devices_of_a_series(self):
    """How many devices there are, if they are more than the series; else one."""
    trainer = TRAINER
    if trainer is None or trainer.datamodule is None or MULTIVARIATE:
        return 1
    n_devices = trainer.world_size
    return n_devices if trainer.datamodule.dataset.n_groups < n_devices else 1
'''
WRAPPED = '''
def _of_each_device(create):
    """Draw windows for all devices that have the same series: each takes its own."""

    def create_for_all(self, *args, **kwargs):
        n_devices, size = self._devices_of_a_series(), self.windows_batch_size
        if n_devices == 1 or size is None or kwargs.get("step") != "train":
            return create(self, *args, **kwargs)
        self.windows_batch_size = size * n_devices
        try:
            windows = create(self, *args, **kwargs)
        finally:
            self.windows_batch_size = size
        for name in ("temporal", "static"):
            if windows[name] is not None:
                windows[name] = windows[name][self.global_rank :: n_devices]
        return windows

    return create_for_all

CREATE = _of_each_device(CREATE)
'''


def devices_in(class_: str, trainer: str) -> str:
    """The method that tells how many devices may have the same series, for this class."""
    multivariate = "self.MULTIVARIATE" if class_ == "BaseModel" else "False"
    text = DEVICES.replace("TRAINER", trainer).replace(" or MULTIVARIATE", f" or {multivariate}")
    return text.replace(" or False", "")


def wrapped_in(class_: str, trainer: str, create: str = "_create_windows", beside: str = PARSE_WINDOWS) -> Rewrite:
    """Windows for all devices, of which each takes its own, in this class."""
    text = devices_in(class_, trainer) + WRAPPED.replace("CREATE", create)
    return Rewrite((Change(class_, old=beside, new=f"{beside}\n{text}"),))


OLD_STARTS = """
if (step == "train") and (self.input_size > 0) and (n_windows > self.input_size):
    max_sampleable_time = n_windows - self.input_size + 1
    start = np.random.choice(max_sampleable_time)
    windows = windows[:, :, start : (start + self.input_size), :]
"""
STARTS = """
if (step == "train") and (self.input_size > 0):
    input_size = self.input_size
    if (input_size > 0) and (n_windows > input_size):
        max_sampleable_time = n_windows - self.input_size + 1
        start = np.random.choice(max_sampleable_time)
        windows = windows[:, :, start : (start + input_size), :]
"""


def started(old: str, trainer: str) -> Rewrite:
    """A place in time for each device, in recurrent models."""
    start = "start = np.random.choice(max_sampleable_time)"
    indent = next(line for line in old.splitlines() if start in line).replace(start, "")
    new = f"""{indent}# Devices may have the same series: a place in time is drawn for each of them
{indent}n_devices = self._devices_of_a_series()
{indent}starts = [np.random.choice(max_sampleable_time) for _ in range(n_devices)]
{indent}start = starts[self.global_rank % n_devices]"""
    return Rewrite(
        (
            Change("BaseRecurrent", PARSE_WINDOWS, PARSE_WINDOWS + "\n" + devices_in("BaseRecurrent", trainer)),
            Change("BaseRecurrent._create_windows", old=old, new=old.replace(f"{indent}{start}", new)),
        )
    )


BY_TORCH = Change(
    "BaseModel.training_step",
    old="""
if self.windows_batch_size is not None:
    if n_windows < self.windows_batch_size:
        w_idxs = torch.randint(0, n_windows, size=(self.windows_batch_size,), device=windows_temporal.device)
    else:
        w_idxs = torch.randperm(n_windows, device=windows_temporal.device)[: self.windows_batch_size]
else:
    w_idxs = torch.arange(n_windows, device=windows_temporal.device)
""",
    new="""
if self.windows_batch_size is not None:
    # Devices may have the same series: drawn are windows for all, and each takes its own
    n_devices = self._devices_of_a_series()
    n_drawn = self.windows_batch_size * n_devices
    if n_windows < n_drawn:
        w_idxs = torch.randint(0, n_windows, size=(n_drawn,), device=windows_temporal.device)
    else:
        w_idxs = torch.randperm(n_windows, device=windows_temporal.device)[:n_drawn]
    w_idxs = w_idxs[self.global_rank % n_devices :: n_devices]
else:
    w_idxs = torch.arange(n_windows, device=windows_temporal.device)
""",
)

# Lightning 1.6 has the trainer itself there
OLD_TRAINER, TRAINER = "self.trainer", "self._trainer"
COMMON = "neuralforecast/common/"
WINDOWS, RECURRENT, MODEL = (f"{COMMON}_base_{name}.py" for name in ("windows", "recurrent", "model"))

NHITS = {"mlp_units": [[8, 8]] * 3, "windows_batch_size": 16}
GRU = {"encoder_hidden_size": 8, "decoder_hidden_size": 8}

patch = Patch(
    id="windows-of-each-rank",
    summary="with fewer series than devices, devices train on the same windows, and buy nothing",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/windows-of-each-rank.md",
    variants={
        "==1.0.0": {WINDOWS: wrapped_in("BaseWindows", OLD_TRAINER, beside="def _normalization(self, windows): ...")},
        ">=1.1,<1.5": {WINDOWS: wrapped_in("BaseWindows", OLD_TRAINER), RECURRENT: started(OLD_STARTS, OLD_TRAINER)},
        ">=1.5,<3": {WINDOWS: wrapped_in("BaseWindows", TRAINER), RECURRENT: started(STARTS, TRAINER)},
        "==3.0.0": {MODEL: wrapped_in("BaseModel", TRAINER)},
        ">=3.0.1,<3.1.4": {MODEL: wrapped_in("BaseModel", TRAINER, "_sample_windows")},
        ">=3.1.4": {
            MODEL: Rewrite(
                (
                    Change("BaseModel", PARSE_WINDOWS, PARSE_WINDOWS + "\n" + devices_in("BaseModel", TRAINER)),
                    BY_TORCH,
                )
            )
        },
    },
    unaffected={},
    cases=(
        Case(
            "NHITS",
            "one series",
            options=NHITS,
            stage="one-series",
        ),
        Case("GRU", "one series", options=GRU, stage="one-series", thorough=True, releases=">=1.1,<3"),
    ),
)
