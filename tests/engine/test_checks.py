"""Each check finds its fault in the facts of a call, of a script or of a case, and nothing where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nfpatch.engine import checks
from nfpatch.engine.checks import CHECKS, first_finding
from nfpatch.engine.facts import Answer, CallFacts, Failure, RankFacts, Training

RETURNED = RankFacts(
    "NeuralForecast.fit", 10, has_returned=True, answers=(Answer("a", 24),), weights=("w",), buffers="b"
)
TRAINED = Training("NHITS", 2, "gloo", steps=4, validated=(2.0,), weights="w", batches=("x", "y"))
REFUSED = Failure("parameters that were not used in producing the loss", unused=("out.weight",), is_refusal=True)
OTHER_FILE = {"/home/me/model.ckpt": {"opened"}}


def call_of(on_rank_1: RankFacts = RETURNED, training: Training = TRAINED, is_case: bool = False) -> CallFacts:
    """A call on two ranks, of which the second may have other facts."""
    return CallFacts(
        name=RETURNED.name,
        ranks={0: replace(RETURNED, written=on_rank_1.written), 1: on_rank_1},
        trainings={0: {0: TRAINED, 1: training}},
        world_size=2,
        is_case=is_case,
        backend="gloo" if is_case else None,
    )


# By the name of the check: what the second rank has otherwise, of the call or of its training
FAULTS: dict[str, dict[str, Any]] = {
    "unused_parameters": {"on_rank_1": replace(RETURNED, has_returned=False, failure=REFUSED)},
    "errors": {"on_rank_1": replace(RETURNED, has_returned=False, failure=Failure("KeyError: 'y'"))},
    "search_choice": {"on_rank_1": replace(RETURNED, chosen=("trial 1",))},
    "hangs": {"on_rank_1": replace(RETURNED, has_returned=False)},
    "parting_calls": {"on_rank_1": replace(RETURNED, line=11)},
    "world_size": {"training": replace(TRAINED, world_size=3)},
    "evidence": {"training": replace(TRAINED, steps=1), "is_case": True},
    "reference": {"on_rank_1": replace(RETURNED, differences=("12 of 24 rows differ",))},
    "series_order": {"training": replace(TRAINED, batches=("x", "z"))},
    "running_statistics": {"on_rank_1": replace(RETURNED, buffers="other")},
    "training_steps": {"training": replace(TRAINED, steps=3)},
    "training_weights": {"training": replace(TRAINED, weights="other")},
    "validation_loss": {"training": replace(TRAINED, validated=(2.5,))},
    "model_weights": {"on_rank_1": replace(RETURNED, weights=("other",))},
    "forecasts": {"on_rank_1": replace(RETURNED, answers=(Answer("b", 24),))},
    "shared_files": {"on_rank_1": replace(RETURNED, written=OTHER_FILE)},
}


def name_of(check: Any) -> str:
    return check.__name__.rpartition(".")[2]


def faulty(name: str) -> CallFacts:
    facts = call_of(**FAULTS[name])
    if name != "search_choice":
        return facts
    return replace(facts, ranks={**facts.ranks, 0: replace(RETURNED, chosen=("trial 0",))})


def test_every_module_of_the_folder_is_registered_once() -> None:
    modules = {path.stem for path in Path(checks.__file__).parent.glob("*.py")} - {"__init__"}

    assert sorted(map(name_of, CHECKS)) == sorted(modules)
    assert modules == FAULTS.keys()


@pytest.mark.parametrize("is_case", [False, True])
def test_a_call_without_a_fault_has_no_finding(is_case: bool) -> None:
    assert first_finding(call_of(is_case=is_case)) is None


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_a_check_finds_its_fault_and_is_the_first_to_find_it(check: Any) -> None:
    facts = faulty(name_of(check))
    found = check.find(facts)

    assert found is not None
    assert found.outcome != "pass"
    assert first_finding(facts) == found
    assert first_finding(facts, [other for other in CHECKS if other is not check]) != found
    assert check.find(call_of(is_case=facts.is_case)) is None


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"hangs", "parting_calls"}))
def test_a_case_is_checked_as_a_script_is(name: str) -> None:
    assert first_finding(replace(faulty(name), is_case=True, backend="gloo")) is not None


def test_of_a_case_the_weights_must_be_known() -> None:
    unknown = replace(TRAINED, weights=None)

    assert first_finding(call_of(training=unknown)) is None
    assert first_finding(call_of(training=unknown, is_case=True)) is not None


def test_the_cause_comes_before_what_follows_from_it() -> None:
    closed = replace(RETURNED, has_returned=False, failure=Failure("RuntimeError: Connection closed by peer", time=1.0))
    cause = replace(RETURNED, has_returned=False, failure=Failure("ValueError: no", ("a.py:1 in f",), time=2.0))
    facts = replace(call_of(), ranks={0: closed, 1: cause})

    found = first_finding(facts)

    assert found is not None
    assert found.message == "ValueError: no"
    assert [error.partition("\n")[0] for error in found.errors] == [
        "rank 1: ValueError: no",
        "rank 0: RuntimeError: Connection closed by peer",
    ]
