"""What notes of ranks amount to: the fault of each call, and the patches that are named for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfpatch.catalog import load_catalog
from nfpatch.rehearsal.heard import Heard
from nfpatch.rehearsal.verdict import Stage, place_of, stages_of

CATALOG = load_catalog()
PATCHES = [patch for patch in CATALOG.default if CATALOG.files_of(patch, "1.7.4")]
REFUSAL = "RuntimeError: It looks like your LightningModule has parameters that were not used in producing the loss"
FORECASTS = {"rows": 24, "columns": ["unique_id", "ds", "NHITS"], "ids": 2, "nan": 0, "digest": "a"}
COMING_TO_AN_END = {"forecasts": None, "weights": ["w"], "chosen": []}


class Ranks:
    """The notes of two ranks, and what is made of them. Each event of `both` is noted by both, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = 0.0
        for rank in (0, 1):
            self.note(rank, "begin", command=["train.py"])

    def note(self, rank: int, event: str, pid: int = 0, **fields: Any) -> None:
        self.time += 1
        pid = pid or rank + 100
        with (self.folder / f"events-{pid}.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "rank": rank, "pid": pid, "time": self.time, **fields}) + "\n")

    def both(self, event: str, **fields: Any) -> None:
        for rank in (0, 1):
            self.note(rank, event, **fields)

    def call(self, name: str, number: int = 0, models: tuple[str, ...] = ("NHITS",), search: str = "") -> None:
        where = {"file": "/home/me/train.py", "line": 10 + number}
        self.both("call", number=number, name=f"NeuralForecast.{name}", models=models, search=search, **where)

    def train(self, rank: int, number: int = 0, index: int = 0, **fields: Any) -> None:
        place = {"number": number, "index": index, "model": "NHITS"}
        self.note(rank, "training", **place, world_size=2, find_unused=fields.pop("find_unused", None))
        usual = {"losses": [1.0], "validated": [2.0], "unused": [], "weights": "w", "steps": 4}
        self.note(rank, "trained", **place, **{**usual, **fields})

    def stages(self, lacking: Any = PATCHES, ended: str | None = None) -> list[Stage]:
        heard = Heard(self.folder)
        heard.read()
        return stages_of(heard, 2, lacking, ended)

    def stage(self) -> Stage:
        (found,) = self.stages()
        return found


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return Ranks(tmp_path)


def test_a_call_that_gives_on_all_ranks_what_one_process_gives_is_no_fault(ranks: Ranks) -> None:
    ranks.call("fit")
    for rank in (0, 1):
        ranks.train(rank)
    ranks.note(0, "alone", number=0, index=0, validation=2.0)
    ranks.both("returned", number=0, **COMING_TO_AN_END)
    stage = ranks.stage()
    assert (stage.outcome, stage.ranks, stage.patches, stage.place) == (
        "pass",
        ("returned", "returned"),
        (),
        "train.py:10",
    )


def test_parameters_without_a_gradient_are_named_with_the_patch_of_the_model(ranks: Ranks) -> None:
    ranks.call("fit", models=("NBEATSx",))
    ranks.both("raised", number=0, error=REFUSAL, unused=["blocks.0.out.weight", "out.weight"], places=[])
    stage = ranks.stage()
    assert stage.outcome == "unused-parameters"
    assert "2 parameters without a gradient (blocks.0.out.weight, out.weight)" in stage.detail
    assert stage.patches == ("nbeatsx-unused-out",)


def test_a_patch_that_the_source_has_is_not_named(ranks: Ranks) -> None:
    ranks.call("fit", models=("NBEATSx",))
    ranks.both("raised", number=0, error=REFUSAL, unused=["out.weight"], places=[])
    (stage,) = ranks.stages(lacking=[])
    assert (stage.patches, stage.is_sought) == ((), True)


def test_the_rank_that_failed_first_is_the_one_that_is_told_of(ranks: Ranks) -> None:
    ranks.call("predict")
    ranks.note(0, "raised", number=0, error="RuntimeError: Connection closed by peer", unused=None, places=[])
    place = "/env/lib/site-packages/neuralforecast/common/_base_windows.py:710 in predict"
    error = "IndexError: list index out of range"
    ranks.note(1, "raised", number=0, error=error, unused=None, places=[place, "ddp.py:1 in root_device"])
    stage = ranks.stage()
    assert stage.detail == f"rank 1: {error}, at neuralforecast/common/_base_windows.py:710 in predict"
    assert stage.patches == ("predict-on-one-device",)


def test_an_error_of_other_words_names_no_patch(ranks: Ranks) -> None:
    ranks.call("predict")
    ranks.both("raised", number=0, error="KeyError: 'a column of mine'", unused=None, places=[])
    stage = ranks.stage()
    assert stage.detail == "every rank: KeyError: 'a column of mine'"
    assert (stage.patches, stage.is_sought) == ((), True)


def test_what_one_process_is_refused_as_well_is_no_fault_of_several(ranks: Ranks) -> None:
    error = "IndexError: list index out of range"
    ranks.call("predict")
    ranks.both("raised", number=0, error=error, unused=None, places=[])
    ranks.note(0, "alone", number=0, error=error)
    stage = ranks.stage()
    assert stage.detail.endswith("one process is refused as well")
    assert (stage.ok, stage.patches, stage.is_sought) == (False, (), False)


def test_what_could_not_be_asked_of_one_process_is_told(ranks: Ranks) -> None:
    ranks.call("fit")
    for rank in (0, 1):
        ranks.train(rank)
    ranks.note(0, "alone", number=0, index=0, validation=None, error="RuntimeError: out of memory")
    ranks.both("returned", number=0, **COMING_TO_AN_END)
    stage = ranks.stage()
    assert stage.notes == ("not held against one process, which ended with RuntimeError: out of memory",)
    assert (stage.ok, stage.patches) == (True, ())


@pytest.mark.parametrize(
    ("on_rank_1", "alone", "words"),
    [
        (2.5, None, "the validation loss is 2 on rank 0, 2.5 on 1"),
        (2.0, 3.0, "the validation loss is 2, and 3 in one process"),
        (2.0, 2.0000001, ""),
    ],
)
def test_validation_losses_are_those_of_one_process(
    ranks: Ranks, on_rank_1: float, alone: float | None, words: str
) -> None:
    ranks.call("fit")
    ranks.train(0)
    ranks.train(1, validated=[on_rank_1])
    ranks.note(0, "alone", number=0, index=0, validation=alone)
    ranks.both("returned", number=0, **COMING_TO_AN_END)
    stage = ranks.stage()
    assert stage.detail == words
    assert stage.patches == (("validation-of-all-series",) if words else ())


def test_other_weights_on_another_rank_are_a_fault(ranks: Ranks) -> None:
    ranks.call("fit")
    ranks.train(0)
    ranks.train(1, weights="others")
    ranks.both("returned", number=0, **COMING_TO_AN_END)
    assert "weights" in ranks.stage().detail


def test_a_training_of_fewer_processes_is_a_fault(ranks: Ranks) -> None:
    ranks.call("fit")
    place = {"number": 0, "index": 0, "model": "NHITS"}
    ranks.both("training", **place, world_size=1, find_unused=None)
    ranks.both("returned", number=0, **COMING_TO_AN_END)
    assert ranks.stage().detail == "trained on 1 process, and not on 2"


def test_processes_that_end_with_the_training_tell_for_their_ranks(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path)
    (tmp_path / "events-101.jsonl").unlink()  # one process runs the script, as with ddp_spawn
    ranks.note(0, "call", number=0, name="NeuralForecast.fit", file="train.py", line=1, models=["NHITS"], search="")
    for rank, loss in ((0, 2.0), (1, 2.5)):
        place = {"number": 0, "index": 0, "model": "NHITS", "pid": 200 + rank}
        ranks.note(rank, "training", **place, world_size=2, find_unused=None)
        ranks.note(rank, "trained", **place, losses=[1.0], validated=[loss], unused=[], weights="w", steps=4)
    ranks.note(0, "returned", number=0, **COMING_TO_AN_END)
    assert ranks.stage().detail == "the validation loss is 2 on rank 0, 2.5 on 1"


def test_forecasts_are_those_of_one_process_and_the_same_on_all_ranks(ranks: Ranks) -> None:
    ranks.call("predict", number=0)
    ranks.call("predict", number=1)
    for rank in (0, 1):
        other = {**FORECASTS, "digest": f"{rank}", "nan": 12 * rank}
        ranks.note(rank, "returned", number=0, **{**COMING_TO_AN_END, "forecasts": other})
        ranks.note(rank, "returned", number=1, **{**COMING_TO_AN_END, "forecasts": FORECASTS})
    ranks.note(0, "alone", number=1, differ="12 of 24 rows have another unique_id than in one process")
    first, second = ranks.stages()
    assert first.detail == (
        "rank 1 and rank 0 have other forecasts: 24 rows, 12 numbers missing, and 24 rows, 0 missing"
    )
    assert second.detail == "12 of 24 rows have another unique_id than in one process"
    assert first.patches == second.patches == ("predict-on-one-device",)


def test_ranks_that_choose_otherwise_are_a_fault_of_the_search(ranks: Ranks) -> None:
    ranks.call("fit", models=("AutoNHITS",), search="search")
    for rank in (0, 1):
        ranks.note(rank, "returned", number=0, **{**COMING_TO_AN_END, "chosen": [f"trial {rank} of 2"]})
    stage = ranks.stage()
    assert stage.detail == "rank 0 has chosen trial 0 of 2; rank 1 trial 1 of 2"
    assert stage.patches == ("search-by-one-rank",)


def test_a_rank_that_does_not_come_back_is_told_with_where_it_waits(ranks: Ranks) -> None:
    ranks.call("cross_validation")
    ranks.note(1, "returned", number=0, **COMING_TO_AN_END)
    stack = """Current thread 0x1 (most recent call first):
  File "/env/site-packages/torch/distributed/distributed_c10d.py", line 4000 in barrier
  File "/env/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/env/site-packages/neuralforecast/core.py", line 1300 in cross_validation
  File "/home/me/train.py", line 10 in <module>
"""
    (ranks.folder / "stack-100.txt").write_text(stack)
    (stage,) = ranks.stages(ended="no process did anything for 30 s")
    assert stage.outcome == "timeout"
    assert stage.ranks == ("waits", "returned")
    assert "rank 0 does not come back: it waits in barrier, called at neuralforecast/core.py:1300" in stage.detail
    assert stage.patches == ("predict-on-one-device",)


def test_what_is_not_made_because_a_rank_has_ended_is_told_as_its_consequence(ranks: Ranks) -> None:
    ranks.call("load", number=0)
    ranks.note(0, "returned", number=0, **COMING_TO_AN_END)
    ranks.note(1, "raised", number=0, error="FileNotFoundError: [Errno 2] model", unused=None, places=[])
    ranks.note(0, "call", number=1, name="NeuralForecast.predict", file="train.py", line=12, models=[], search="")
    ranks.note(0, "returned", number=1, **{**COMING_TO_AN_END, "forecasts": FORECASTS})
    load, predict = ranks.stages()
    assert load.patches == ("save-by-one-rank",)
    assert predict.detail == "not made on all ranks: rank 1 has ended in NeuralForecast.load, line 10"
    assert (predict.ok, predict.patches, predict.is_sought) == (False, (), False)


@pytest.mark.parametrize(
    ("ways", "is_fault"),
    [
        (("opened", "opened"), True),
        (("opened", "removed"), True),
        (("replaced", "replaced"), False),
        (("removed", "removed"), False),
    ],
)
def test_files_that_ranks_write_at_once_are_a_fault_unless_they_are_put_there_whole(
    ranks: Ranks, ways: tuple[str, str], is_fault: bool
) -> None:
    ranks.call("save")
    for rank, how in enumerate(ways):
        ranks.note(rank, "wrote", number=0, path="/home/me/model/NHITS_0.ckpt", how=how)
        ranks.note(rank, "wrote", number=0, path=f"/home/me/of-{rank}", how="opened")
    ranks.both("returned", number=0, **COMING_TO_AN_END)
    stage = ranks.stage()
    assert stage.ok != is_fault
    assert stage.detail == ("more than one rank writes /home/me/model/NHITS_0.ckpt" if is_fault else "")


def test_find_unused_parameters_is_told_with_what_makes_it_needless(ranks: Ranks) -> None:
    ranks.call("fit", number=0, models=("NBEATSx",))
    ranks.call("fit", number=1)
    for rank in (0, 1):
        ranks.train(rank, number=0, find_unused=True, unused=["out.weight"])
        ranks.train(rank, number=1, find_unused=True)
    for number in (0, 1):
        ranks.both("returned", number=number, **COMING_TO_AN_END)
    first, second = ranks.stages()
    assert first.notes == (
        "find_unused_parameters=True is kept, because of out.weight: needless with nbeatsx-unused-out",
    )
    assert second.notes == ("find_unused_parameters=True is kept, and needless: every parameter gets a gradient",)
    assert first.ok
    assert second.ok


def test_a_place_without_a_collective_is_the_innermost_frame() -> None:
    stack = """Current thread 0x1 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/home/me/train.py", line 31 in <module>
"""
    assert place_of(stack) == "/usr/lib/python3.11/threading.py:327 in wait, called at /home/me/train.py:31 in <module>"
    assert place_of("") == ""
