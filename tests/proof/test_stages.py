"""The stages of a script: faults on several processes are detected, whichever rank has them."""

from __future__ import annotations

import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from releases import unpack
from support import MARK, answer, processes_with

from nfpatch.catalog import Case
from nfpatch.proof import runner
from nfpatch.proof.runner import RunOptions, run_proof
from nfpatch.proof.verdict import CaseResult, ProofCase

pytestmark = [
    pytest.mark.ddp,
    pytest.mark.skipif(sys.platform != "linux", reason="requires /proc"),
]

NHITS = {"mlp_units": [[8, 8]] * 3}

# Code appended to patched modules of neuralforecast.
CORE = """
import glob
import os
import threading


def without_last_series(frame):
    return frame.iloc[: -len(frame) // 3]


def with_nan(frame):
    frame.iloc[0, -1] = float("nan")
    return frame


def planted_predict(forecaster, *args, released=NeuralForecast.predict, **kwargs):
    frame = released(forecaster, *args, **kwargs)
    model = type(forecaster.models[0]).__name__
    rank = int(os.environ.get("RANK", "0"))
    together = forecaster.models[0].trainer_kwargs["devices"] == 2
    if model == "MLP":
        frame["MLP"] += rank
    if model == "NBEATS" and together and rank == 1:
        frame = without_last_series(frame)
    if model == "NLinear" and together:
        frame = frame.iloc[::-1]
    if model == "DLinear" and together and rank == 0:
        frame = with_nan(frame)
    if model == "NHITS" and together and rank == 1:
        threading.Event().wait()
    return frame


def planted_save(forecaster, path, *args, released=NeuralForecast.save, **kwargs):
    released(forecaster, path, *args, **kwargs)
    if type(forecaster.models[0]).__name__ == "TiDE" and forecaster.models[0].trainer_kwargs["devices"] == 2:
        os.remove(glob.glob(os.path.join(path, "*.ckpt"))[0])


NeuralForecast.predict = planted_predict
NeuralForecast.save = planted_save
"""
MODELS = {
    "deepnpts": """
def log(self, name, value, *args, **kwargs):
    off = 1.001 if name == "ptl/val_loss" and self.trainer.world_size > 1 else 1
    return super(DeepNPTS, self).log(name, value * off, *args, **kwargs)


DeepNPTS.log = log
""",
    "mlpmultivariate": """
def on_before_batch_transfer(self, batch, index):
    return {**batch, "temporal": batch["temporal"].flip(0)} if self.global_rank == 1 else batch


MLPMultivariate.on_before_batch_transfer = on_before_batch_transfer
""",
    "nbeatsx": """
def raising_another_error(released):
    def hook(self, *args):
        try:
            released(self, *args)
        except Exception as error:
            raise RuntimeError("the other device") if self.global_rank == 1 else error

    return hook


NBEATSx.on_train_batch_end = raising_another_error(NBEATSx.on_train_batch_end)
NBEATSx.on_train_epoch_end = raising_another_error(NBEATSx.on_train_epoch_end)
""",
    "mlp": """
def training_step(self, *args):
    import os
    import threading
    if os.environ.get("HANGS") and self.global_rank == 1:
        threading.Event().wait()
    return super(MLP, self).training_step(*args)


MLP.training_step = training_step
""",
}

# Each rank searches by itself, or does not train what it receives, or hangs.
SEARCHES = """
def planted_search(auto, *args, released=BaseAuto._optuna_tune_model, **kwargs):
    launch_ranks = search.launch_ranks
    if type(auto).__name__ == "AutoDLinear":
        search.launch_ranks = lambda config: None
    try:
        return released(auto, *args, **kwargs)
    finally:
        search.launch_ranks = launch_ranks


def planted_fit(auto, cls_model, config, *args, released=BaseAuto._fit_model, **kwargs):
    import os
    import threading

    is_last = os.environ.get("RANK") == "1" and config["devices"] == 2
    if type(auto).__name__ == "AutoMLP" and is_last:
        config["learning_rate"] *= 2
        config["random_seed"] = 2
    if type(auto).__name__ == "AutoNHITS" and is_last:
        threading.Event().wait()
    return released(auto, cls_model, config, *args, **kwargs)


BaseAuto._optuna_tune_model = planted_search
BaseAuto._fit_model = planted_fit
"""

CAUGHT = {
    ("MLP", "predict"): "rank 1 and rank 0 have different forecasts",
    ("NBEATS", "predict"): "rank 1: 24 rows of unique_id, ds, NBEATS, where one process gives 36 rows of",
    ("NLinear", "predict"): "rows have another unique_id",
    ("DLinear", "predict"): "rank 0: 1 of 36 forecasts are not those of one process, 1 of them NaN",
    ("DeepNPTS", "validate"): "the validation loss is",
    ("MLPMultivariate", "refit"): "rank 1 and rank 0 have the series in different orders, at 6 of 6 steps",
    ("TiDE", "save"): "IndexError",
    ("NBEATSx", "failing-rank"): "fit ends on rank 1 with 'RuntimeError: the other device'",
    ("AutoDLinear", "search"): "rank 1: has tried 0: {'learning_rate': ",
    ("AutoMLP", "search"): "the weights differ between ranks",
}
OPTIONS = {
    "NHITS": NHITS,
    "NBEATS": NHITS,
    "NBEATSx": NHITS,
    "MLP": {"hidden_size": 8},
    "AutoMLP": {"hidden_size": 8},
    "AutoNHITS": NHITS,
    "DeepNPTS": {"hidden_size": 8, "n_layers": 1},
    "MLPMultivariate": {"hidden_size": 8},
    "TiDE": {"hidden_size": 8, "temporal_decoder_dim": 8},
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patched 1.7.4 with the faults."""
    site = unpack("1.7.4", tmp_path_factory.mktemp("planted") / "site")
    answer("apply", "--site-packages", site)
    planted_in = {"core": CORE, "common/_base_auto": SEARCHES}
    planted_in.update({f"models/{name}": code for name, code in MODELS.items()})
    for path, code in planted_in.items():
        file = site / "neuralforecast" / f"{path}.py"
        file.write_text(file.read_text() + "\n\n" + code)
    return site


@pytest.fixture(scope="module")
def caught(planted: Path, training_env: Path) -> dict[tuple[str, str], CaseResult]:
    """The results by model and stage, in one launch; the last one hangs on rank 1."""
    cases = [case_of(model, stage) for model, stage in (*CAUGHT, ("GRU", "cross-validation"), ("NHITS", "predict"))]
    token = str(uuid.uuid4())
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(MARK, token)
        patched.setattr(runner, "PATIENCE", 5.0)
        report = run_proof(training_env, cases, {"installed": planted}, RunOptions(timeout=120))
    assert processes_with(token) == set()
    return {(result.model, result.stage): result for result in report.cases}


def case_of(model: str, stage: str, launcher: str = "torchrun") -> ProofCase:
    """The case of one model up to one stage."""
    case = Case(model, "planted", options=OPTIONS.get(model, {}), stage=stage)
    return ProofCase(f"{model}/{stage}", None, case, "installed", "pass", forecast=None, launcher=launcher)


@pytest.mark.parametrize(("model", "stage"), CAUGHT)
def test_a_stage_that_differs_from_one_process_is_detected(
    caught: dict[tuple[str, str], CaseResult], model: str, stage: str
) -> None:
    result = caught[model, stage]
    assert (result.ok, result.outcome) == (False, "error" if stage == "save" else "wrong")
    assert CAUGHT[model, stage] in result.detail


def test_a_stage_that_fails_in_one_process_too_is_reported_and_ignored(
    caught: dict[tuple[str, str], CaseResult],
) -> None:
    result = caught["GRU", "cross-validation"]
    assert (result.ok, result.outcome, result.refused_alone) == (True, "error", True)
    assert "Recurrent models do not support step_size > 1" in result.detail


def test_a_stage_that_hangs_on_one_rank_is_detected_with_its_location(
    caught: dict[tuple[str, str], CaseResult],
) -> None:
    result = caught["NHITS", "predict"]
    assert (result.ok, result.outcome) == (False, "error")
    assert "5 s" in result.detail
    assert "threading.py:" in result.detail.partition("rank 1 was at ")[2]
    assert "in planted_predict" in result.detail


@pytest.fixture(scope="module")
def hung(planted: Path, training_env: Path) -> tuple[CaseResult, CaseResult]:
    """A trial of a search, and a fit in spawned processes, in which rank 1 hangs and rank 0 waits; at the same time."""
    cases = [case_of("AutoNHITS", "search"), case_of("MLP", "predict", "fork")]
    token, options = str(uuid.uuid4()), RunOptions(timeout=45)
    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor() as pool:
        patched.setenv(MARK, token)
        patched.setenv("HANGS", "yes")
        proofs = [pool.submit(run_proof, training_env, [case], {"installed": planted}, options) for case in cases]
        (trial,), (fit,) = (proof.result().cases for proof in proofs)
    assert processes_with(token) == set()
    return trial, fit


def test_a_trial_that_hangs_on_one_rank_is_detected_with_its_location(hung: tuple[CaseResult, CaseResult]) -> None:
    trial, _ = hung
    assert (trial.ok, trial.outcome) == (False, "timeout")
    assert "in planted_fit" in trial.detail.partition("rank 1 was at ")[2]


def test_a_fit_that_hangs_in_a_spawned_process_is_detected_with_all_locations(
    hung: tuple[CaseResult, CaseResult],
) -> None:
    _, fit = hung
    assert (fit.ok, fit.outcome) == (False, "timeout")
    assert "the script was at " in fit.detail
    assert "torch" in fit.detail.partition("rank 0 of the fit was at ")[2].partition("\n")[0]
    assert "threading.py:" in fit.detail.partition("rank 1 of the fit was at ")[2]
    assert not os.path.exists("rank-1.log")
