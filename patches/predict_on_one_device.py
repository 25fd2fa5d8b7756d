"""predict on several devices returns other rows than on one, fails, or hangs.

Each process gets the predictions of its own shard of the series, and neuralforecast assumes that they are complete. Its
guard (pull requests 391, in 1.4.0, and 1363, in 3.1.0) covers only `accelerator="gpu"`: it uses the first GPU in every
process, whichever devices the user chose, and keeps the strategy (up to 3.0.2) and the number of nodes. `decompose` has
no guard.

The patch does not change the guard for one process. If the trainer's arguments are for several, every process predicts
all series by itself, on its own device, as a single process with these weights does.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
WINDOWS, RECURRENT, MULTIVARIATE, MODEL = (
    f"{COMMON}_base_{name}.py" for name in ("windows", "recurrent", "multivariate", "model")
)

GUARD = """
if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (torch.cuda.device_count() > 1):
    pred_trainer_kwargs["devices"] = [0]
"""
GUARD_WITH_STRATEGY = f'{GUARD}    pred_trainer_kwargs["strategy"] = "auto"\n'
CHANGES = "pred_trainer_kwargs.update(placement.single_device_changes(self.trainer_kwargs))"


def guarded(class_: str, guard: str = GUARD) -> Change:
    """Let each process predict by itself, after the guard."""
    return Change(f"{class_}.predict", guard, guard + CHANGES)


def unguarded(function: str) -> Change:
    """Let each process predict by itself where there is no guard."""
    return Change(
        function,
        old="trainer = pl.Trainer(**self.trainer_kwargs)",
        new="trainer = pl.Trainer(**placement.single_device_kwargs(self.trainer_kwargs))",
    )


def predicted(*changes: Change) -> Rewrite:
    return Rewrite(changes, imports=("placement",))


DECOMPOSE = unguarded("BaseWindows.decompose")
GUARDED: Mapping[str, Rewrite] = {
    WINDOWS: predicted(guarded("BaseWindows"), DECOMPOSE),
    RECURRENT: predicted(guarded("BaseRecurrent")),
}


NHITS = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}
GRU = {"encoder_hidden_size": 8, "decoder_hidden_size": 8}

patch = Patch(
    id="predict-on-one-device",
    summary="predict on several devices gives other rows than on one, or fails",
    symptoms=(
        "could not broadcast input array from shape",
        "list index out of range",
        "argument 'tensors' (position 1) must be tuple of Tensors, not NoneType",
        "Last element of indptr must be equal to the size of data",
        "'NoneType' object is not iterable",
        "accelerator set through both strategy class and accelerator flag, choose one",
    ),
    ambiguous=(
        "could not broadcast input array from shape",
        "list index out of range",
        "'NoneType' object is not iterable",
    ),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/predict-on-one-device.md",
    variants={
        "<1.4.0": {
            WINDOWS: predicted(unguarded("BaseWindows.predict"), DECOMPOSE),
            RECURRENT: predicted(unguarded("BaseRecurrent.predict")),
        },
        "==1.4.0": GUARDED,
        ">=1.5.0,<3.0.0": {**GUARDED, MULTIVARIATE: predicted(guarded("BaseMultivariate"))},
        ">=3.0.0,<3.1.0": {MODEL: predicted(guarded("BaseModel"), unguarded("BaseModel.decompose"))},
        ">=3.1.0": {MODEL: predicted(guarded("BaseModel", GUARD_WITH_STRATEGY), unguarded("BaseModel.decompose"))},
    },
    unaffected={},
    cases=(
        Case("NHITS", "predict", options=NHITS, stage="predict"),
        Case("GRU", "predict", options=GRU, stage="predict", thorough=True, releases=">=1.1"),
        Case("NHITS", "load, predict", options=NHITS, stage="load", thorough=True, releases=">=1.7.1"),
        Case(
            "NHITS",
            "predict_insample",
            options=NHITS,
            stage="insample",
            thorough=True,
            original_hangs=True,
            releases=">=1.5",
        ),
        Case("NHITS", "cross_validation", options=NHITS, stage="cross-validation", thorough=True, original_hangs=True),
    ),
)
