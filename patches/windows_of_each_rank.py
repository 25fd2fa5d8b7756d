"""With fewer series than devices, several devices train on the same windows.

Lightning shards the series. If there are fewer series than devices, several devices get the same series, and as all
draw the same random numbers, they draw the same windows: with one series all devices compute the same gradient, and
extra devices have no effect. With the patch each draws windows for all of them and takes its share: N devices train on
one series as one device does with N times the `windows_batch_size`. Recurrent models up to 2.0.1 draw a start in time,
which then differs on each device. With all windows (`windows_batch_size=None`), each device trains on all of them.

The same happens with any number of series if the trainer gets `use_distributed_sampler=False` (in Lightning 1.6,
`replace_sampler_ddp`), so that Lightning does not shard the series, unless the user's own sampler does.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

SAMPLE = "if self.windows_batch_size is not None:"


def drawn(where: str, *inside: str, n_windows: str = "n_windows = len(windows)", use: str = "") -> Rewrite:
    """The draw by numpy, up to 3.1.3, as one call."""
    old = """
w_idxs = np.random.choice(
    n_windows,
    size=self.windows_batch_size,
    replace=(n_windows < self.windows_batch_size),
)
"""
    new = "w_idxs = sampling.draw_windows(self, n_windows)\n"
    changes = [Change(where, old + use, new + use, inside)]
    if n_windows:
        changes.append(Change(where, n_windows, inside=inside[:1]))
    return Rewrite(tuple(changes), imports=("sampling",))


OF_WINDOWS = drawn("BaseWindows._create_windows", 'if step == "train":', SAMPLE, use="windows = windows[w_idxs]")


def started(*inside: str, input_size: str) -> Rewrite:
    """Draw a different start in time on each device, in recurrent models."""
    limit = "max_sampleable_time = n_windows - self.input_size + 1\n"
    old = "start = np.random.choice(max_sampleable_time)\n"
    new = "start = sampling.draw_start(self, max_sampleable_time)\n"
    use = f"windows = windows[:, :, start : (start + {input_size}), :]"
    change = Change("BaseRecurrent._create_windows", limit + old + use, limit + new + use, inside)
    return Rewrite((change,), imports=("sampling",))


STARTED_FIRST = started(
    'if (step == "train") and (self.input_size > 0) and (n_windows > self.input_size):', input_size="self.input_size"
)
STARTED = started(
    'if (step == "train") and (self.input_size > 0):',
    "if (input_size > 0) and (n_windows > input_size):",
    input_size="input_size",
)

DRAWN_BY_TORCH = Rewrite(
    (
        Change("BaseModel.training_step", "n_windows = len(final_condition)"),
        Change(
            "BaseModel.training_step",
            old="""
if n_windows < self.windows_batch_size:
    w_idxs = torch.randint(0, n_windows, size=(self.windows_batch_size,), device=windows_temporal.device)
else:
    w_idxs = torch.randperm(n_windows, device=windows_temporal.device)[: self.windows_batch_size]
""",
            new="w_idxs = sampling.draw_on_device(self, n_windows, windows_temporal.device)",
            inside=(SAMPLE,),
        ),
    ),
    imports=("sampling",),
)

COMMON = "neuralforecast/common/"
WINDOWS, RECURRENT, MODEL = (f"{COMMON}_base_{name}.py" for name in ("windows", "recurrent", "model"))

NHITS = {"mlp_units": [[8, 8]] * 3, "windows_batch_size": 16}
GRU = {"encoder_hidden_size": 8, "decoder_hidden_size": 8}

patch = Patch(
    id="windows-of-each-rank",
    summary="with fewer series than devices, several devices train on the same windows",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/windows-of-each-rank.md",
    variants={
        "==1.0.0": {WINDOWS: OF_WINDOWS},
        ">=1.1,<1.5": {WINDOWS: OF_WINDOWS, RECURRENT: STARTED_FIRST},
        ">=1.5,<3": {WINDOWS: OF_WINDOWS, RECURRENT: STARTED},
        "==3.0.0": {
            MODEL: drawn(
                "BaseModel._create_windows",
                'if step == "train":',
                SAMPLE,
                n_windows="",
                use="windows = windows[w_idxs]",
            )
        },
        ">=3.0.1,<3.1.4": {
            MODEL: drawn(
                "BaseModel._sample_windows",
                'if step == "train" and self.windows_batch_size is not None:',
                n_windows="n_windows = windows_temporal.shape[0]",
            )
        },
        ">=3.1.4": {MODEL: DRAWN_BY_TORCH},
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
