"""The report of a rehearsal, from the records of its ranks: the fault of each call, and its patches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nfpatch.catalog import load_catalog
from nfpatch.engine.checks import errors
from nfpatch.engine.logs import place_of
from nfpatch.rehearsal.records import Records
from nfpatch.rehearsal.run import notes_of
from nfpatch.rehearsal.verdict import Known, Stage, stages_of
from nfpatch.target import ENTRY
from nfpatch.target.events import (
    CallRaised,
    CallReturned,
    CallStarted,
    Entry,
    FileChanged,
    Frame,
    MethodReplaced,
    OneDeviceOnly,
    OptionOverridden,
    OwnLayerUnused,
    ProcessEnded,
    ProcessStarted,
    ReferenceMade,
    SourceImported,
    Step,
    Training,
    TrainingObserved,
    encode,
)

CATALOG = load_catalog()
PATCHES = [patch for patch in CATALOG.default if CATALOG.files_of(patch, "1.7.4")]
REFUSAL = "RuntimeError: It looks like your LightningModule has parameters that were not used in producing the loss"
FORECASTS = Frame(rows=24, columns=("unique_id", "ds", "NHITS"), ids=2, nan=0, digest="a")
BEGIN = ProcessStarted()
PREDICT = "neuralforecast/common/_base_windows.py:BaseWindows.predict"
FUNCTIONS = {PREDICT: ["predict-on-one-device"]}
HEADING_OF_A_STACK = "Current thread 0x1 (most recent call first):"
NAN, INFINITE = float("nan"), float("inf")


def returned(
    number: int = 0, forecasts: Frame | None = None, weights: tuple[str, ...] = ("w",), chosen: tuple[str, ...] = ()
) -> CallReturned:
    return CallReturned(number, () if forecasts is None else (forecasts,), weights, chosen)


def raised(error: str, unused: Iterable[str] | None = None, places: tuple[str, ...] = ()) -> CallRaised:
    return CallRaised(0, error, None if unused is None else tuple(unused), places)


def observed(index: int = 0, number: int = 0, **fields: Any) -> TrainingObserved:
    usual = {"losses": (1.0,), "validated": (2.0,), "weights": "w", "steps": 4, "world_size": 2}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return TrainingObserved(number, index, Training("NHITS", **{**usual, **given}))


def started(
    name: str, number: int = 0, line: int = 10, models: tuple[str, ...] = ("NHITS",), search: str = "", **given: Any
) -> CallStarted:
    return CallStarted(number, f"NeuralForecast.{name}", "/home/me/train.py", line, models, search, **given)


def steps(*lines: int, seen: dict[int, str] | None = None) -> tuple[Step, ...]:
    return tuple(
        Step("/home/me/train.py", line, "main", ((seen or {})[line],) if line in (seen or {}) else ()) for line in lines
    )


class Ranks:
    """The events of two ranks, and their report. `both` records an event on each rank, one after the other."""

    def __init__(self, folder: Path, started: Iterable[int] = (0, 1)) -> None:
        self.folder = folder
        self.time = 0.0
        for rank in started:
            self.record(rank, BEGIN)

    def record(self, rank: int, event: Any, pid: int = 0) -> None:
        self.time += 1
        pid = pid or rank + 100
        with (self.folder / f"events-{pid}.jsonl").open("a") as file:
            file.write(json.dumps(Entry(rank, pid, self.time, event).to_json()) + "\n")

    def both(self, event: Any) -> None:
        for rank in (0, 1):
            self.record(rank, event)

    def call(self, name: str, number: int = 0, models: tuple[str, ...] = ("NHITS",), search: str = "") -> None:
        self.both(started(name, number, 10 + number, models, search=search))

    def train(self, rank: int, number: int = 0, index: int = 0, **fields: Any) -> None:
        self.record(rank, observed(index, number, **fields))

    def stages(self, lacking: Any = PATCHES, ended: str | None = None) -> list[Stage]:
        records = Records(self.folder)
        records.read()
        return stages_of(records, 2, Known(lacking, PATCHES, FUNCTIONS), ended)

    def stage(self) -> Stage:
        (found,) = self.stages()
        return found


def as_json(frame: Frame) -> Any:
    return json.loads(json.dumps(encode(frame)))


def stack_of(*frames: str) -> str:
    """A stack as `faulthandler` prints it, of frames such as "FILE:LINE in NAME", innermost first."""
    lines = [HEADING_OF_A_STACK]
    for frame in frames:
        file, _, rest = frame.partition(":")
        lines.append(f'  File "{file}", line {rest}')
    return "\n".join(lines) + "\n"


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return Ranks(tmp_path)


def test_a_call_with_the_results_of_one_process_on_all_ranks_is_no_fault(ranks: Ranks) -> None:
    ranks.call("fit")
    for rank in (0, 1):
        ranks.train(rank)
    ranks.record(0, ReferenceMade(number=0, index=0, validation=2.0))
    ranks.both(returned(0))
    stage = ranks.stage()
    assert (stage.outcome, stage.states, stage.patches, stage.place) == (
        "pass",
        ("returned", "returned"),
        (),
        "train.py:10",
    )


def test_the_document_of_a_call_has_the_records_of_each_rank(ranks: Ranks) -> None:
    ranks.call("fit", models=("NHITS", "NBEATSx"))
    ranks.train(0)
    ranks.record(0, FileChanged(0, "/home/me/b", "opened"))
    ranks.record(0, FileChanged(0, "/home/me/a", "opened"))
    ranks.record(0, returned(0, forecasts=FORECASTS))
    ranks.record(1, raised("KeyError: 'y': none"))
    training = {
        **{"model": "NHITS", "world_size": 2, "find_unused": None, "steps": 4},
        **{"losses": [1.0], "validated": [2.0], "unused": [], "weights": "w"},
    }
    assert json.loads(json.dumps(ranks.stage().to_json())) == {
        "call": "NeuralForecast.fit",
        "file": "/home/me/train.py",
        "line": 10,
        "model": "NHITS, NBEATSx",
        "outcome": "error",
        "ok": False,
        "refused_alone": False,
        "ranks": [
            {
                **{"rank": 0, "state": "24 rows", "trainings": [training], "error": None},
                **{
                    "written": ["/home/me/a", "/home/me/b"],
                    "forecasts": as_json(FORECASTS),
                    "chosen": [],
                    "weights": ["w"],
                },
            },
            {
                **{"rank": 1, "state": "KeyError", "trainings": [], "error": "KeyError: 'y': none"},
                **{"written": [], "forecasts": None, "chosen": None, "weights": None},
            },
        ],
        "detail": "rank 1: KeyError: 'y': none",
        "why": errors.WHY,
        "patches": [],
        "remedy": [],
        "observed": ["rank 1: KeyError: 'y': none"],
        "notes": [],
    }


def test_overrides_and_the_first_source_are_recorded_once(ranks: Ranks) -> None:
    for rank, what in ((0, "devices=1 is 2"), (1, "devices=1 is 2"), (1, "max_steps=50 is 4")):
        ranks.record(rank, OptionOverridden(what))
        ranks.record(rank, SourceImported(f"of {rank}"))
    ranks.record(1, ProcessEnded())
    records = Records(ranks.folder)
    records.read()
    assert records.overrides == ["devices=1 is 2", "max_steps=50 is 4"]
    assert records.source == "of 0"
    assert [rank.ended is not None for rank in records.ranks.values()] == [False, True]


def test_a_ranks_own_record_of_its_training_has_precedence(ranks: Ranks) -> None:
    ranks.call("fit")
    for rank in (0, 1):
        ranks.train(rank)
    ranks.record(0, observed(losses=(9.0,), validated=(9.0,), weights="others", steps=1), pid=300)
    ranks.both(returned(0))
    assert ranks.stage().ok


def test_unused_parameters_are_reported_with_the_patch_of_the_model(ranks: Ranks) -> None:
    ranks.call("fit", models=("NBEATSx",))
    ranks.both(raised(REFUSAL, ["blocks.0.out.weight", "out.weight"]))
    stage = ranks.stage()
    assert stage.outcome == "unused-parameters"
    assert "blocks.0.out.weight, out.weight" in stage.detail
    assert stage.patches == ("nbeatsx-unused-out",)


@pytest.mark.parametrize(
    ("model", "unused", "words", "patches"),
    [
        ("NBEATSx", ["out.bias"], "1 unused parameter (out.bias)", ["nbeatsx-unused-out"]),
        ("AutoNBEATSx", ["out.bias"], "1 unused parameter (out.bias)", ["nbeatsx-unused-out"]),
        ("RNN", ["out.bias"], "1 unused parameter (out.bias)", []),
        ("RNN", ["scaler.revin_bias"], "1 unused parameter (scaler.revin_bias)", ["scaler-revin"]),
        # two patches know the last of them; one of them knows all
        (
            "TFT",
            [f"static_encoder.{name}" for name in ("a", "b", "vsn.joint_grn.lin_c.weight")],
            "3 unused parameters (static_encoder.a, static_encoder.b, static_encoder.vsn.joint_grn.lin_c.weight)",
            ["tft-static-encoder"],
        ),
        (
            "TFT",
            ["static_encoder.a", "static_encoder.b", "static_encoder.c", "scaler.revin_bias"],
            "4 unused parameters (static_encoder.a, static_encoder.b, static_encoder.c and 1 more)",
            ["scaler-revin", "tft-static-encoder"],
        ),
    ],
)
def test_no_more_patches_are_named_than_account_for_the_parameters(
    ranks: Ranks, model: str, unused: list[str], words: str, patches: list[str]
) -> None:
    ranks.call("fit", models=(model,))
    ranks.both(raised(REFUSAL, unused))
    stage = ranks.stage()
    assert stage.detail == f"every rank: refused by strict DDP: {words}"
    assert [*stage.patches] == patches


def test_a_patch_that_the_source_has_is_not_named(ranks: Ranks) -> None:
    ranks.call("fit", models=("NBEATSx",))
    ranks.both(raised(REFUSAL, ["out.weight"]))
    (stage,) = ranks.stages(lacking=[])
    assert (stage.patches, bool(stage.observed)) == ((), True)


def test_the_rank_that_failed_first_is_reported(ranks: Ranks) -> None:
    ranks.call("predict")
    ranks.record(0, raised("RuntimeError: Connection closed by peer"))
    place = "/site-packages/of/mine/lib/site-packages/neuralforecast/common/_base_windows.py:710 in predict"
    error = "IndexError: list index out of range"
    ranks.record(1, raised(error, places=(place, "/lib/site-packages/torch/ddp.py:1 in root_device")))
    stage = ranks.stage()
    assert stage.detail.startswith(f"rank 1: {error}")
    assert "neuralforecast/common/_base_windows.py:710" in stage.detail
    assert stage.patches == ("predict-on-one-device",)


def test_an_error_without_a_known_symptom_names_no_patch(ranks: Ranks) -> None:
    ranks.call("predict")
    ranks.both(raised("KeyError: 'a column of mine'"))
    stage = ranks.stage()
    assert stage.detail == "every rank: KeyError: 'a column of mine'"
    assert (stage.patches, bool(stage.observed)) == ((), True)


@pytest.mark.parametrize(("length", "ending"), [(300, ""), (301, " ...")])
def test_a_long_error_is_shortened(ranks: Ranks, length: int, ending: str) -> None:
    error = "KeyError: ".ljust(length, "x")
    ranks.call("fit")
    ranks.both(raised(error))
    assert ranks.stage().detail == f"every rank: {error[:300]}{ending}"


@pytest.mark.parametrize(("length", "is_the_same"), [(299, False), (300, True)])
def test_long_errors_are_compared_by_their_beginning(ranks: Ranks, length: int, is_the_same: bool) -> None:
    begins = "IndexError: ".ljust(length, "x")
    ranks.call("predict")
    ranks.both(raised(f"{begins}, at 0x1"))
    ranks.record(0, ReferenceMade(number=0, error=f"{begins}; at 0x2"))
    assert ranks.stage().detail.endswith("a single process raises the same error") == is_the_same


def test_another_error_of_one_process_does_not_excuse_that_of_several(ranks: Ranks) -> None:
    ranks.call("predict")
    ranks.both(raised("IndexError: list index out of range"))
    ranks.record(0, ReferenceMade(number=0, differ=None))
    ranks.record(0, ReferenceMade(number=0, error="KeyError: 'y'"))
    stage = ranks.stage()
    assert (stage.refused_alone, stage.patches) == (False, ("predict-on-one-device",))
    assert stage.notes == ()


def test_an_error_of_one_process_too_is_no_fault_of_several(ranks: Ranks) -> None:
    error = "IndexError: list index out of range"
    ranks.call("predict")
    ranks.both(raised(error))
    ranks.record(0, ReferenceMade(number=0, error=error))
    stage = ranks.stage()
    assert stage.detail.endswith("a single process raises the same error")
    assert (stage.ok, stage.patches, stage.refused_alone) == (False, (), True)


def test_a_failed_reference_run_is_reported(ranks: Ranks) -> None:
    ranks.call("fit")
    for rank in (0, 1):
        ranks.train(rank)
    ranks.record(0, ReferenceMade(number=0, index=0, validation=None, error="RuntimeError: out of memory"))
    ranks.both(returned(0))
    stage = ranks.stage()
    (note,) = stage.notes
    assert "RuntimeError: out of memory" in note
    assert (stage.ok, stage.patches) == (True, ())


@pytest.mark.parametrize(
    ("on_rank_1", "alone", "words"),
    [
        (2.5, None, "the validation loss is 2 on rank 0, and 2.5 on rank 1"),
        (2.0, 3.0, "the validation loss is 2, and 3 in the single-process reference"),
        (2.0, 2.0000001, ""),
        (NAN, None, "the validation loss is 2 on rank 0, and nan on rank 1"),
        (2.0, NAN, "the validation loss is 2, and nan in the single-process reference"),
    ],
)
def test_validation_losses_are_those_of_one_process(
    ranks: Ranks, on_rank_1: float, alone: float | None, words: str
) -> None:
    ranks.call("fit")
    ranks.train(0, validated=[4.0, 3.0, 2.0])
    ranks.train(1, validated=[4.0, 3.0, on_rank_1])
    ranks.record(0, ReferenceMade(number=0, index=0, validation=alone))
    ranks.both(returned(0))
    stage = ranks.stage()
    assert stage.detail == words
    assert stage.patches == (("validation-of-all-series",) if words else ())


@pytest.mark.parametrize(
    ("on_rank_0", "on_rank_1", "is_ok"),
    [
        ([], [], True),
        ([], [2.0], True),  # a rank without a validation
        ([2.0], [2.0, 2.0], False),
        ([NAN], [NAN], True),
        ([INFINITE], [INFINITE], True),
        ([NAN], [2.0], False),
        ([1e5], [1e5 + 1], True),
        ([1e5], [1e5 + 1.1], False),
    ],
)
def test_validation_losses_of_ranks_are_equal_up_to_rounding(
    ranks: Ranks, on_rank_0: list[float], on_rank_1: list[float], is_ok: bool
) -> None:
    ranks.call("fit")
    ranks.train(0, validated=on_rank_0)
    ranks.train(1, validated=on_rank_1)
    ranks.record(0, ReferenceMade(number=0, index=0, validation=on_rank_0[-1] if on_rank_0 else 2.0))
    ranks.both(returned(0))
    assert ranks.stage().ok == is_ok


def test_different_weights_on_another_rank_are_a_fault(ranks: Ranks) -> None:
    ranks.call("fit")
    for index, weights in enumerate(("w", "others")):
        ranks.train(0, index=index)
        ranks.train(1, index=index, weights=weights)
    ranks.both(returned(0))
    stage = ranks.stage()
    assert "training 2, NHITS" in stage.detail
    assert stage.patches == ("batch-norm-of-one-rank",)


def test_independent_trainings_of_ranks_may_have_different_weights(ranks: Ranks) -> None:
    ranks.call("fit", models=("AutoNHITS",), search="search")
    ranks.train(0, index=1)
    ranks.train(1, index=1)
    for rank in (0, 1):  # a trial
        ranks.train(rank, world_size=1, weights=f"of {rank}", validated=[float(rank)])
    ranks.both(returned(0))
    assert ranks.stage().ok


def test_a_search_with_different_weights_is_a_fault_of_the_search(ranks: Ranks) -> None:
    for number in (0, 1):
        ranks.call("fit", number=number, models=("AutoNHITS",), search="search")
    ranks.train(0)
    ranks.train(1, weights="others")
    ranks.both(returned(0))
    for rank in (0, 1):
        ranks.record(rank, returned(1, weights=(f"of {rank}",)))
    trained, kept = ranks.stages()
    assert "weights" in trained.detail
    assert "weights" in kept.detail
    assert trained.patches == kept.patches == ("search-by-one-rank",)


def test_a_forecaster_with_different_weights_is_a_fault(ranks: Ranks) -> None:
    ranks.call("fit")
    for rank in (0, 1):
        ranks.record(rank, returned(0, weights=(f"of {rank}",)))
    stage = ranks.stage()
    assert "rank 1 and rank 0" in stage.detail
    assert stage.patches == ("batch-norm-of-one-rank",)


@pytest.mark.parametrize(
    ("size", "words"),
    [(1, "trained on 1 process instead of 2"), (3, "trained on 3 processes instead of 2"), (0, "")],
)
def test_a_training_with_another_world_size_is_a_fault(ranks: Ranks, size: int, words: str) -> None:
    ranks.call("fit")
    ranks.both(observed(world_size=size))
    ranks.both(returned(0))
    assert ranks.stage().detail == words


def test_spawned_processes_record_for_their_ranks(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path)
    (tmp_path / "events-101.jsonl").unlink()  # one process runs the script, as with ddp_spawn
    ranks.record(0, CallStarted(0, "NeuralForecast.fit", "train.py", 1, ("NHITS",), ""))
    for rank, loss in ((0, 2.0), (1, 2.5)):
        ranks.record(rank, observed(validated=(loss,)), pid=200 + rank)
    ranks.record(0, returned(0))
    assert "2 on rank 0" in ranks.stage().detail
    assert "2.5 on rank 1" in ranks.stage().detail


def test_forecasts_are_those_of_one_process_and_the_same_on_all_ranks(ranks: Ranks) -> None:
    ranks.call("predict", number=0)
    ranks.call("predict", number=1)
    for rank in (0, 1):
        other = replace(FORECASTS, digest=f"{rank}", nan=12 * rank)
        ranks.record(rank, returned(0, forecasts=other))
        ranks.record(rank, returned(1, forecasts=FORECASTS))
    ranks.record(
        0, ReferenceMade(number=1, differ="12 of 24 rows have another unique_id than in the single-process reference")
    )
    first, second = ranks.stages()
    assert first.detail == (
        "rank 1 and rank 0 have different forecasts: 24 rows, 12 numbers missing, and 24 rows, 0 numbers missing"
    )
    assert second.detail == "12 of 24 rows have another unique_id than in the single-process reference"
    assert first.patches == second.patches == ("predict-on-one-device",)


def test_ranks_that_choose_different_trials_are_a_fault_of_the_search(ranks: Ranks) -> None:
    ranks.call("fit", models=("AutoNHITS",), search="search")
    for rank in (0, 1):
        ranks.record(rank, returned(0, chosen=(f"trial {rank} of 2",)))
    stage = ranks.stage()
    assert "trial 0 of 2" in stage.detail
    assert "trial 1 of 2" in stage.detail
    assert stage.patches == ("search-by-one-rank",)


def test_a_hanging_rank_is_reported_with_its_location(ranks: Ranks) -> None:
    ranks.call("cross_validation")
    ranks.record(1, returned(0))
    stack = f"""{HEADING_OF_A_STACK}
  File "/env/site-packages/torch/distributed/distributed_c10d.py", line 4000 in barrier
  File "/env/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/env/site-packages/neuralforecast/core.py", line 1300 in cross_validation
  File "/home/me/train.py", line 10 in <module>
"""
    (ranks.folder / "stack-100.txt").write_text(stack)
    (stage,) = ranks.stages(ended="no process did anything for 30 s")
    assert stage.outcome == "timeout"
    assert stage.states == ("waits", "returned")
    assert stage.detail == (
        "rank 0 hangs in barrier, called at neuralforecast/core.py:1300 in cross_validation"
        " (no process did anything for 30 s)"
    )
    assert stage.patches == ("predict-on-one-device",)


def test_every_rank_that_the_others_wait_for_is_reported(ranks: Ranks) -> None:
    ranks.record(2, BEGIN)
    ranks.call("predict")
    stage = ranks.stage()
    assert stage.states == ("waits", "waits", "-")
    assert all(f"rank {rank}" in stage.detail for rank in (0, 1, 2))


def test_a_hanging_search_is_a_fault_of_the_search(ranks: Ranks) -> None:
    ranks.call("fit", models=("AutoNHITS",), search="search")
    ranks.record(0, returned(0))
    assert ranks.stage().patches == ("search-by-one-rank",)


def test_calls_missing_because_a_rank_has_exited_are_part_of_that_finding(ranks: Ranks) -> None:
    ranks.record(2, BEGIN)
    ranks.call("load", number=0)
    ranks.record(2, CallStarted(0, "NeuralForecast.load", "/home/me/train.py", 10, ("NHITS",), ""))
    ranks.record(0, returned(0))
    for rank in (1, 2):
        ranks.record(rank, raised("FileNotFoundError: [Errno 2] model"))
    ranks.record(0, CallStarted(1, "NeuralForecast.predict", "train.py", 12, (), ""))
    ranks.record(0, returned(1, forecasts=FORECASTS))
    (load,) = ranks.stages()
    assert (load.outcome, load.patches) == ("error", ("save-by-one-rank",))
    assert load.detail.endswith(
        "NeuralForecast.predict in line 12 is not called on all ranks: rank 1 raised in NeuralForecast.load, line 10; "
        "rank 2 raised in NeuralForecast.load, line 10"
    )


@pytest.mark.parametrize(
    ("ways", "is_fault"),
    [
        (("opened", "opened"), True),
        (("opened", "removed"), True),
        (("replaced", "replaced"), False),
        (("removed", "removed"), False),
    ],
)
def test_files_that_ranks_write_concurrently_are_a_fault_unless_renamed_into_place(
    ranks: Ranks, ways: tuple[str, str], is_fault: bool
) -> None:
    ranks.call("save")
    for rank, how in enumerate(ways):
        ranks.record(rank, FileChanged(0, "/home/me/model/NHITS_0.ckpt", how))
        ranks.record(rank, FileChanged(0, f"/home/me/of-{rank}", "opened"))
    ranks.both(returned(0))
    stage = ranks.stage()
    assert stage.ok != is_fault
    assert ("/home/me/model/NHITS_0.ckpt" in stage.detail) == is_fault
    assert stage.patches == (("save-by-one-rank",) if is_fault else ())


def test_find_unused_parameters_is_reported_with_the_patches_that_replace_it(ranks: Ranks) -> None:
    ranks.call("fit", number=0, models=("NBEATSx",))
    ranks.call("fit", number=1)
    for rank in (0, 1):
        ranks.train(rank, number=0, find_unused=True, unused=["out.weight"])
        ranks.train(rank, number=1, find_unused=True)
    for number in (0, 1):
        ranks.both(returned(number))
    first, second = ranks.stages()
    (of_first,), (of_second,) = first.notes, second.notes
    assert "out.weight" in of_first
    assert "nbeatsx-unused-out" in of_first
    assert "find_unused_parameters" in of_second
    assert "out.weight" not in of_second
    assert first.ok
    assert second.ok


def test_find_unused_parameters_without_a_patch_is_reported(ranks: Ranks) -> None:
    ranks.call("fit", models=("TFT",))
    ranks.train(0, find_unused=True, unused=["static_encoder.a", "scaler.revin_bias"])
    ranks.call("fit", number=1, models=("TFT",))
    ranks.train(0, number=1, find_unused=True, unused=["a.layer.of.mine"])
    for number in (0, 1):
        ranks.both(returned(number))
    fixable, unknown = ranks.stages()
    assert fixable.notes == (
        "find_unused_parameters=True is kept, because of static_encoder.a, scaler.revin_bias: "
        "not needed with scaler-revin, tft-static-encoder",
    )
    assert unknown.notes == (
        "find_unused_parameters=True is kept, because of a.layer.of.mine: no patch in the catalog fixes them",
    )


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ([], ""),
        (["/home/me/train.py:31 in <module>"], "/home/me/train.py:31 in <module>"),
        (["/env/site-packages/torch/autograd/graph.py:7 in run"], "torch/autograd/graph.py:7 in run"),
        (["/env/site-packages/torch/distributed/c10d.py:7 in barrier"], "barrier"),
        (
            ["/usr/lib/python3.11/threading.py:327 in wait", "/home/me/train.py:31 in <module>"],
            "/usr/lib/python3.11/threading.py:327 in wait, called at /home/me/train.py:31 in <module>",
        ),
        (
            [
                "/env/site-packages/torch/distributed/c10d.py:7 in _wait",
                "/env/site-packages/torch/distributed/c10d.py:8 in all_reduce",
                "/home/me/train.py:31 in <module>",
            ],
            "all_reduce, called at /home/me/train.py:31 in <module>",
        ),
    ],
)
def test_a_location_is_the_collective_or_the_innermost_frame(frames: list[str], place: str) -> None:
    assert place_of(stack_of(*frames)) == place


@pytest.mark.parametrize(
    ("file", "is_reported"),
    [
        ("/env/lib/python3.11/site-packages/neuralforecast/core.py", True),
        ("/home/me/nfpatch/torch/train.py", True),
        ("/env/site-packages/torch/nn/modules/module.py", False),
        ("/env/dist-packages/torch/nn/modules/module.py", False),
        ("/usr/lib/python3.11/runpy.py", False),
        (str(ENTRY), False),
    ],
)
def test_the_reported_caller_is_in_neuralforecast_or_the_script(file: str, is_reported: bool) -> None:
    shown = file.rpartition("site-packages/")[2] if is_reported else "/home/me/train.py"
    frames = ("/env/site-packages/torch/distributed/c10d.py:7 in barrier", f"{file}:31 in <module>")
    assert place_of(stack_of(*frames, "/home/me/train.py:31 in <module>")) == (
        f"barrier, called at {shown}:31 in <module>"
    )


def test_diverging_ranks_are_one_finding_with_the_deciding_line_and_file(
    ranks: Ranks,
) -> None:
    path = "/home/me/NHITS.done"
    ranks.record(0, FileChanged(-1, path, "opened"))
    ranks.record(0, FileChanged(-1, "/home/me/other", "opened"))
    for rank, way in enumerate((steps(7, 8, 10, 11), steps(7, 8, 9, 7, 8, 10, 11))):
        seen = f"{path} {('does not exist', 'exists')[rank]}"
        way = tuple(replace(step, seen=(seen,)) if index == 1 else step for index, step in enumerate(way))
        model = ("NHITS", "NBEATS")[rank]
        ranks.record(rank, started("fit", line=11, models=(model,), options={f"{model}.h": "6"}, steps=way))
    ranks.both(raised("RuntimeError: params[0] appears not to match"))
    for rank in (0, 1):
        ranks.record(rank, started("predict", 1, line=12))
    ranks.both(CallRaised(1, "IndexError: list index out of range", None, ()))
    (stage,) = ranks.stages()
    assert (stage.outcome, stage.patches, stage.observed, stage.notes) == ("wrong", (), (), ())
    for words in (
        *("rank 0 calls NeuralForecast.fit of NHITS", "rank 1 calls NeuralForecast.fit of NBEATS"),
        *("train.py:8", f"rank 0 continues in line 10 ({path} does not exist)"),
        *(f"rank 1 continues in line 9 ({path} exists)", f"rank 0 writes {path}", "params[0] appears not to match"),
    ):
        assert words in stage.detail
    assert stage.why
    assert "/home/me/other" not in stage.detail
    assert any("LOCAL_RANK" in line for line in stage.remedy)


def test_ranks_diverge_at_the_first_differing_iteration_of_a_loop(ranks: Ranks) -> None:
    ranks.record(0, started("fit", models=("NHITS",), line=13, steps=steps(7, 8, 10, 11, 13)))
    ranks.record(1, started("fit", models=("NBEATS",), line=13, steps=steps(7, 8, 9, 7, 8, 10, 12, 13)))
    ranks.both(returned(0))
    assert "decided at train.py:8" in ranks.stage().detail


def test_a_waiting_loop_is_not_where_ranks_diverge(ranks: Ranks) -> None:
    ranks.record(0, started("fit", line=7, steps=steps(3, 5, 6, 7)))
    ranks.record(1, started("fit", line=9, steps=steps(3, 4, 3, 4, 3, 5, 6, 8, 9)))
    ranks.both(returned(0))
    assert "decided at train.py:6" in ranks.stage().detail


def test_a_rank_that_exits_before_the_others_train_is_reported_with_its_error(ranks: Ranks) -> None:
    ranks.record(0, started("fit"))
    ranks.record(1, ProcessEnded(error="KeyError: 'y'"))
    (stage,) = ranks.stages(ended="no process did anything for 30 s")
    assert "rank 1 exits without it (KeyError: 'y')" in stage.detail
    assert "rank 0 hangs" in stage.detail
    assert any("KeyError: 'y'" in line for line in stage.remedy)


def test_a_prediction_on_one_rank_is_no_divergence(ranks: Ranks) -> None:
    ranks.call("fit")
    ranks.both(returned(0))
    ranks.record(0, started("predict", 1, line=11))
    ranks.record(0, returned(1, forecasts=FORECASTS))
    for rank, number in ((0, 2), (1, 1)):
        ranks.record(rank, started("cross_validation", number, line=12))
        ranks.record(rank, returned(number, forecasts=FORECASTS))
    ranks.record(1, started("save", 2, line=13))
    ranks.record(1, returned(2))
    for rank in (0, 1):
        ranks.record(rank, ProcessEnded())
    stages = ranks.stages()
    assert [(stage.line, stage.ok, stage.states) for stage in stages] == [
        (10, True, ("returned", "returned")),
        (11, True, ("24 rows", "-")),
        (12, True, ("24 rows", "24 rows")),
        (13, True, ("-", "returned")),
    ]
    assert stages[1].notes == ("called on rank 0 only",)


@pytest.mark.parametrize("given", ["options", "data"])
def test_different_arguments_are_the_cause_of_later_differences(ranks: Ranks, given: str) -> None:
    for rank in (0, 1):
        ranks.record(rank, started("fit", **{given: {"NHITS.learning_rate": str(rank)}}))
    ranks.both(returned(0))
    ranks.call("save", 1)
    ranks.both(returned(1))
    ranks.call("predict", 2)
    ranks.record(0, returned(2))
    ranks.record(1, CallRaised(2, "KeyError: 'y'", None, ()))
    fit, save = ranks.stages()
    assert (fit.outcome, fit.patches, save.ok) == ("wrong", (), True)
    for words in ("NHITS.learning_rate is 0 on rank 0, and 1 on rank 1", "KeyError: 'y'", "line 12"):
        assert words in fit.detail
    assert fit.remedy
    assert fit.notes == ()


def test_the_line_of_a_later_difference_is_that_of_a_rank_that_made_the_call(ranks: Ranks) -> None:
    ranks.record(2, BEGIN)
    for rank in (0, 1, 2):
        ranks.record(rank, started("fit", options={"NHITS.learning_rate": str(rank)}))
        ranks.record(rank, returned(0))
    for rank in (1, 2):
        ranks.record(rank, started("fit", 1, line=11))
    stage = ranks.stage()
    assert "rank 0 never reached this call" in stage.detail
    assert stage.detail.endswith(" in line 11")


def test_a_difference_after_an_error_that_the_script_catches_is_reported(ranks: Ranks) -> None:
    for rank in (0, 1):
        ranks.record(rank, started("fit", options={"NHITS.learning_rate": str(rank)}))
    ranks.both(raised("KeyError: 'x'"))
    ranks.record(0, ReferenceMade(number=0, error="KeyError: 'x'"))
    ranks.call("fit", 1)
    ranks.record(0, returned(1))
    ranks.record(1, CallRaised(1, "KeyError: 'y'", None, ()))
    fit = ranks.stage()
    assert not fit.ok
    for words in ("NHITS.learning_rate is 0 on rank 0, and 1 on rank 1", "KeyError: 'y'", "line 11"):
        assert words in fit.detail
    assert any("KeyError: 'x'" in note for note in fit.notes)


@pytest.mark.parametrize("options", [{"path": "'run-{}'"}, {"NHITS.default_root_dir": "'run-{}'"}])
def test_different_paths_are_not_the_cause_of_later_differences(ranks: Ranks, options: dict[str, str]) -> None:
    for rank in (0, 1):
        ranks.record(rank, started("fit", options={name: value.format(rank) for name, value in options.items()}))
    ranks.record(0, returned(0))
    ranks.record(1, raised("KeyError: 'y'"))
    stage = ranks.stage()
    assert (stage.outcome, stage.detail) == ("error", "rank 1: KeyError: 'y'")


def test_an_error_of_all_ranks_is_not_caused_by_different_arguments(ranks: Ranks) -> None:
    for rank in (0, 1):
        ranks.record(rank, started("fit", options={"NHITS.learning_rate": str(rank)}))
    ranks.both(raised("KeyError: 'y'"))
    assert ranks.stage().outcome == "error"


def test_a_fault_that_a_patch_fixes_is_not_caused_by_different_arguments(ranks: Ranks) -> None:
    for rank in (0, 1):
        ranks.record(rank, started("predict", options={"NHITS.learning_rate": str(rank)}))
    ranks.record(0, returned(0))
    ranks.record(1, raised("IndexError: list index out of range"))
    stage = ranks.stage()
    assert (stage.outcome, stage.patches) == ("error", ("predict-on-one-device",))


def test_different_arguments_alone_are_no_fault(ranks: Ranks) -> None:
    for rank in (0, 1):
        ranks.record(rank, started("save", options={"path": f"run-{rank}"}))
    ranks.both(returned(0))
    stage = ranks.stage()
    assert stage.ok
    assert any("run-0" in note and "run-1" in note for note in stage.notes)


@pytest.mark.parametrize("lacking", [PATCHES, []])
def test_a_method_that_the_script_replaces_explains_why_its_patch_has_no_effect(ranks: Ranks, lacking: Any) -> None:
    ranks.call("fit")
    ranks.both(MethodReplaced(PREDICT, "/home/me/train.py", 14))
    ranks.both(returned(0))
    ranks.call("predict", 1)
    ranks.both(CallRaised(1, "IndexError: list index out of range", None, ()))
    fit, stage = ranks.stages(lacking)
    assert fit.notes == ()
    assert (stage.patches, stage.observed) == ((), ())
    remedy = " ".join(stage.remedy)
    for words in ("BaseWindows.predict", "train.py:14", "predict-on-one-device"):
        assert words in remedy


def test_a_method_that_the_script_replaces_without_harm_is_noted(ranks: Ranks) -> None:
    ranks.call("predict")
    ranks.both(MethodReplaced(PREDICT, "/home/me/train.py", 14))
    ranks.both(returned(0, forecasts=FORECASTS))
    stage = ranks.stage()
    assert stage.ok
    assert any("predict-on-one-device" in note for note in stage.notes)


@pytest.mark.parametrize("has_search", [False, True])
def test_an_error_of_one_process_with_gpus_is_no_fault_of_several(ranks: Ranks, has_search: bool) -> None:
    error = "TypeError: `devices` selected with `CPUAccelerator` should be an int > 0."
    ranks.call("fit", search="search" * has_search)
    ranks.record(0, ReferenceMade(number=0, error=error, needs_gpus=True))
    ranks.both(raised(error))
    stage = ranks.stage()
    assert (stage.ok, stage.patches, stage.refused_alone, stage.observed) == (False, (), True, ())
    assert any("devices=1" in line for line in stage.remedy)


def test_a_single_device_script_is_reported_as_such(ranks: Ranks) -> None:
    ranks.call("fit")
    ranks.both(OneDeviceOnly(0, "SingleDeviceStrategy"))
    for rank in (0, 1):
        ranks.train(rank, world_size=1)
    ranks.both(returned(0))
    stage = ranks.stage()
    assert (stage.ok, stage.patches) == (True, ())
    assert any("SingleDeviceStrategy" in note for note in stage.notes)


def test_a_users_unused_layer_is_reported_with_the_line_to_add(
    ranks: Ranks,
) -> None:
    names = ("adapter.weight", "adapter.bias")
    layer = OwnLayerUnused("self.adapter", "OwnModel", "/home/me/train.py", 7, names)
    ranks.call("fit", models=("OwnModel",))
    ranks.train(0, find_unused=True, unused=[*names], own_layers=(layer,))
    ranks.both(returned(0))
    (note,) = ranks.stage().notes
    assert "self.adapter.requires_grad_(False) in train.py:7" in note


def test_the_patch_for_the_base_class_of_a_users_class_is_named(ranks: Ranks) -> None:
    ranks.call("fit", models=("OwnModel",))
    ranks.train(0, bases=("NBEATSx", "BaseWindows"))
    ranks.both(raised(REFUSAL, ["out.weight"]))
    assert ranks.stage().patches == ("nbeatsx-unused-out",)


def test_an_unknown_fault_comes_with_the_facts_for_an_issue(ranks: Ranks) -> None:
    ranks.call("fit")
    ranks.both(raised("KeyError: 'y'", places=("/lib/site-packages/neuralforecast/core.py:7 in fit",)))
    observed = ranks.stage().observed
    assert "KeyError: 'y'" in observed[0]
    assert "neuralforecast/core.py:7 in fit" in observed[1]


def test_ranks_with_different_calls_have_their_own_cause(ranks: Ranks) -> None:
    for rank in (0, 1):
        ranks.record(rank, started("fit", options={"NHITS.random_seed": str(rank)}))
    ranks.both(returned(0))
    for rank, line in ((0, 12), (1, 14)):
        ranks.record(rank, started("fit", 1, line=line))
    ranks.both(returned(1))
    fit, other = ranks.stages()
    assert (fit.ok, other.ok) == (True, False)
    assert "in line 14" in other.detail


def test_calls_of_programs_that_the_script_starts_count_as_its_own(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, started=[0])
    for pid, model in ((200, "NHITS"), (300, "LSTM")):
        ranks.record(0, ProcessStarted(within=True), pid)
        ranks.record(0, started("fit", models=(model,)), pid)
        ranks.record(1, BEGIN, pid + 1)
        ranks.record(1, started("fit", models=(model,)), pid + 1)
        for rank in (0, 1):
            ranks.record(rank, observed(), pid + rank)
            ranks.record(rank, returned(0), pid + rank)
            ranks.record(rank, started("predict", 1, 11, models=(model,)), pid + rank)
            ranks.record(rank, returned(1, forecasts=FORECASTS), pid + rank)
        ranks.record(1, ProcessEnded(), pid + 1)
    ranks.record(0, ProcessEnded())
    stages = ranks.stages()
    assert [(stage.ok, stage.call.rpartition(".")[2], stage.model) for stage in stages] == [
        *((True, "fit", "NHITS"), (True, "predict", "NHITS"), (True, "fit", "LSTM"), (True, "predict", "LSTM")),
    ]
    assert [len(rank["trainings"]) for rank in stages[2].ranks] == [1, 1]


def test_a_rank_that_fails_in_the_second_program_of_the_script_is_found_there(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, started=[0])
    for pid in (200, 300):
        ranks.record(0, ProcessStarted(within=True), pid)
        ranks.record(1, BEGIN, pid + 1)
        for rank in (0, 1):
            ranks.record(rank, started("fit", line=pid), pid + rank)
    for rank in (0, 1):
        ranks.record(rank, returned(0), 200 + rank)
    ranks.record(0, returned(0), 300)
    ranks.record(1, raised("KeyError: 'y'"), 301)
    first, second = ranks.stages()
    assert (first.ok, second.outcome, second.states) == (True, "error", ("returned", "KeyError"))


@pytest.mark.parametrize(
    ("rank", "launcher", "is_noted"), [(1, "script", True), (0, "script", False), (1, "torchrun", False)]
)
def test_processes_that_the_script_starts_on_every_rank_are_noted(
    ranks: Ranks, rank: int, launcher: Any, is_noted: bool
) -> None:
    ranks.record(rank, ProcessStarted(within=True), pid=200)
    ranks.record(rank, started("fit"), pid=200)
    records = Records(ranks.folder)
    records.read()
    assert any("subprocess" in note for note in notes_of(records, launcher)) == is_noted


@pytest.mark.parametrize("goes_on", ["another call", "end", "end with an error", "only one rank ends"])
def test_an_error_of_one_process_too_that_the_script_catches_is_a_note(ranks: Ranks, goes_on: str) -> None:
    error = "TypeError: unexpected keyword argument 'n_pool_kernel'"
    ranks.call("fit")
    ranks.both(raised(error))
    ranks.record(0, ReferenceMade(number=0, error=error))
    if goes_on == "another call":
        ranks.call("fit", 1)
        ranks.both(returned(1))
    else:
        ranks.record(0, ProcessEnded(error="TypeError" * (goes_on == "end with an error")))
    if goes_on != "only one rank ends":
        ranks.record(1, ProcessEnded())
    stage = ranks.stages()[0]
    is_handled = goes_on in ("another call", "end")
    assert (stage.ok, stage.refused_alone, stage.patches) == (is_handled, True, ())
    assert bool(stage.remedy) != is_handled
    assert any("n_pool_kernel" in note for note in stage.notes) == is_handled


def test_a_rank_whose_peer_has_left_without_an_error_needs_no_patch_for_errors(ranks: Ranks) -> None:
    ranks.call("fit")
    ranks.record(0, raised("RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]"))
    ranks.record(1, returned(0))
    stage = ranks.stage()
    assert (stage.outcome, stage.patches) == ("error", ())


def test_a_file_written_by_a_callback_of_the_script_is_reported_with_its_line(ranks: Ranks) -> None:
    ranks.call("fit")
    ranks.both(FileChanged(0, "/home/me/loss.csv", "opened", "/home/me/train.py:7"))
    ranks.both(returned(0))
    stage = ranks.stage()
    assert (stage.outcome, stage.patches, "train.py:7" in stage.detail) == ("wrong", (), True)
    assert any("is_global_zero" in line for line in stage.remedy)


def test_results_that_differ_because_of_different_data_need_no_patch(ranks: Ranks) -> None:
    for rank in (0, 1):
        ranks.record(rank, started("fit", data={"df": f"750 rows ({rank})"}))
        ranks.train(rank, validated=[2.0 + rank])
    ranks.both(returned(0))
    ranks.call("predict", 1)
    for rank in (0, 1):
        ranks.record(rank, returned(1, forecasts=replace(FORECASTS, digest=str(rank))))
    ranks.call("save", 2)
    ranks.both(FileChanged(2, "/home/me/saved/model.ckpt", "opened"))
    ranks.both(returned(2))
    ranks.call("predict", 3)
    ranks.both(CallRaised(3, "IndexError: list index out of range", None, ()))
    fit, save, predict = ranks.stages()
    assert (fit.outcome, fit.patches) == ("wrong", ())
    assert "750 rows (0) on rank 0, and 750 rows (1) on rank 1" in fit.detail
    assert fit.remedy
    assert (save.patches, predict.patches) == (("save-by-one-rank",), ("predict-on-one-device",))


@pytest.mark.parametrize("source", ["released", "patched"])
def test_a_rank_that_the_script_stops_is_reported_with_the_line(ranks: Ranks, source: str) -> None:
    ranks.call("fit")
    stopped = {"stopped_by": "/home/me/train.py:37", "stopped_after": 1}
    ranks.record(0, observed(steps=1, validated=(), weights=None))
    ranks.record(1, observed(steps=1, validated=(), weights=None, **stopped))
    if source == "released":
        ranks.record(1, observed(steps=1, **stopped))
        ranks.record(1, returned(0))
        ranks.record(0, raised("RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]"))
        ranks.record(1, started("predict", 1, 11))
        ranks.record(1, returned(1, forecasts=FORECASTS))
        ranks.record(1, ProcessEnded())
    stage = ranks.stages(ended=None if source == "released" else "no process did anything for 30 s")[0]
    assert (stage.outcome, stage.patches, stage.observed) == ("wrong", (), ())
    for words in ("rank 1 left the training after step 1, and rank 0 did not", "train.py:37"):
        assert words in stage.detail
    assert any("reduce_boolean_decision(stop, all=False)" in line for line in stage.remedy)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_stop_on_all_ranks_or_one_that_has_no_effect_is_no_fault(ranks: Ranks, steps: int) -> None:
    ranks.call("fit")
    stopped = {"stopped_by": "/home/me/train.py:37", "stopped_after": steps}
    ranks.train(0, steps=steps, **(stopped if steps == 1 else {}))
    ranks.train(1, steps=steps, **stopped)
    ranks.both(returned(0))
    assert ranks.stage().ok
