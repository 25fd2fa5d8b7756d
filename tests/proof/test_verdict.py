"""The verdict on a case, from the reports of its ranks."""

import json
from dataclasses import replace
from typing import Any, Optional

import pytest

from nfpatch.catalog import Case
from nfpatch.engine.facts import Call
from nfpatch.proof.verdict import (
    CaseResult,
    ProofCase,
    Strategy,
    difference,
    result_of_calls,
    result_without_calls,
)
from nfpatch.target.events import (
    CallRaised,
    CallReturned,
    CallStarted,
    FitCompared,
    Frame,
    ReferenceMade,
    Training,
)

GREEN = ProofCase("green", "nbeatsx-unused-out", Case("NBEATSx", "MQLoss"), "patched", "pass", ("out.*",))
RED = replace(GREEN, id="red", source="released", expect="unused-parameters")

FORECASTS = Frame(24, ("unique_id", "ds", *map(str, range(5))), ids=2, nan=0, digest="a")
TRAINED = Call(
    started=CallStarted(0, "fit"),
    begin=9.0,
    end=10.0,
    trainings={0: Training(world_size=2, backend="gloo", steps=3, losses=(1.0,), parameters=100, weights="abc")},
    returned=CallReturned(0, (FORECASTS,)),
)


def changed(
    call: Call,
    error: Optional[str] = None,
    differ: Optional[str] = None,
    refused_by: Optional[str] = None,
    seconds: float = 1.0,
    forecasts: tuple[Frame, ...] = (FORECASTS,),
    comparison: Optional[FitCompared] = None,
    **of_training: Any,
) -> Call:
    """What a rank reports of a case, with another end, or another training; `refused_by` may be "one process"."""
    if error is None and differ is None and call.raised is not None:
        error = call.raised.message
    references = [] if differ is None else [ReferenceMade(0, differ=differ)]
    if refused_by == "one process":
        references.append(ReferenceMade(0, error=error))
    return replace(
        call,
        end=9.0 + seconds,
        trainings={0: replace(call.trainings[0], **of_training)},
        returned=None if error else CallReturned(0, forecasts),
        raised=CallRaised(0, error, by_neuralforecast=refused_by == "neuralforecast") if error else None,
        references=references,
        comparison=comparison,
    )


DEAD = ("out.weight", "out.bias")
REFUSED_BY_DDP = "RuntimeError: parameters that were not used in producing the loss"
REFUSED = changed(
    TRAINED,
    REFUSED_BY_DDP,
    steps=1,
    unused=DEAD,
    unused_last=DEAD,
    unused_by_torch=DEAD[::-1],
    weights=None,
)
ALONE = changed(TRAINED, world_size=1, backend=None)
SAME = FitCompared(0, different=(), largest=0.0, forecasts_equal=True, losses_equal=True, removed=DEAD, frozen=())
# The result of GREEN if both ranks are TRAINED
PROVED = CaseResult(
    id="green",
    patch="nbeatsx-unused-out",
    model="NBEATSx",
    config="MQLoss",
    source="patched",
    expect="pass",
    outcome="pass",
    ok=True,
    unused_parameters=(),
    seconds=1.0,
    detail="",
    world_size=2,
    backend="gloo",
    steps=3,
    finite_loss=True,
    equal_weights=True,
    parameters=100,
    forecast_shape=(24, 5),
    finite_forecasts=True,
)
NO_EVIDENCE = {
    "world_size": None,
    "backend": None,
    "steps": None,
    "finite_loss": None,
    "equal_weights": None,
    "parameters": None,
    "forecast_shape": None,
    "finite_forecasts": None,
}


def result(case: ProofCase, *calls: Call) -> CaseResult:
    return result_of_calls(case, calls, world_size=max(len(calls), 2), backend="gloo")


def test_the_name_of_a_source_tree_has_its_required_patches() -> None:
    assert GREEN.tree == "patched"
    assert replace(RED, requires=("a", "b")).tree == "released+a+b"


def test_names_and_patterns_that_match_each_other_exactly_do_not_differ() -> None:
    assert difference(["out.weight", "out.bias"], ["out.weight", "out.b*"]) == ""


def test_all_names_and_patterns_without_a_match_are_reported() -> None:
    words = difference(["out.weight", "gate.0.weight", "gate.0.bias"], ["out.*", "in.*", "mid.*"])

    unclaimed, unmatched = words.split("; ")
    assert unclaimed.startswith("unused, but not claimed by the patch: gate.0.weight, gate.0.bias (")
    assert "`unused_parameters`" in unclaimed
    assert unmatched == "claimed by the patch, but not unused: in.*, mid.*"


def test_a_pattern_has_to_match_the_whole_name() -> None:
    assert difference(["layout.weight"], ["out.*"]) != ""


def test_green_is_a_fit_that_every_rank_passed() -> None:
    assert result(GREEN, TRAINED, TRAINED) == PROVED


def test_two_steps_are_enough_because_ddp_raises_at_the_second() -> None:
    short = changed(TRAINED, steps=2)

    assert result(GREEN, short, short) == replace(PROVED, steps=2)


def test_red_is_an_error_that_names_exactly_the_parameters_of_the_patch() -> None:
    assert result(RED, REFUSED, REFUSED) == replace(
        PROVED,
        id="red",
        source="released",
        expect="unused-parameters",
        outcome="unused-parameters",
        unused_parameters=DEAD,
        steps=1,
        equal_weights=None,
        forecast_shape=None,
        finite_forecasts=None,
    )


def test_a_result_has_the_kind_of_fit_and_the_time_of_the_slowest_rank() -> None:
    case = replace(GREEN, strategy="find-unused-ddp", launcher="spawn", requires=("another",), like="other")
    fit = changed(TRAINED, comparison=SAME)

    assert result(case, fit, replace(fit, end=11.0)) == replace(
        PROVED,
        strategy="find-unused-ddp",
        launcher="spawn",
        requires=("another",),
        like="other",
        matches_reference=True,
        seconds=2.0,
    )


def test_a_failed_fit_keeps_the_evidence_of_ranks_that_trained() -> None:
    failed = changed(TRAINED, "ValueError: no", refused_by="neuralforecast", steps=2, losses=(float("nan"),))
    never = changed(failed, world_size=None, backend=None, steps=0, parameters=None)
    other = changed(TRAINED, world_size=3, backend="nccl", parameters=1)

    due = replace(
        PROVED,
        outcome="error",
        ok=False,
        detail="rank 0: ValueError: no",
        finite_loss=False,
        refused=True,
        steps=2,
        equal_weights=None,
        forecast_shape=None,
        finite_forecasts=None,
    )
    assert result(GREEN, failed, other) == due
    assert result(GREEN, never, failed) == due
    assert result(GREEN, never, never) == replace(due, refused=False, **NO_EVIDENCE)


def test_an_unfinished_case_has_no_evidence() -> None:
    assert result_without_calls(GREEN, "timeout", "not reached") == replace(
        PROVED,
        outcome="timeout",
        ok=False,
        detail="not reached",
        seconds=0.0,
        is_finished=False,
        **NO_EVIDENCE,
    )


def test_a_result_as_json_has_all_fields() -> None:
    held = replace(
        PROVED, unused_parameters=DEAD, requires=("another",), seconds=1.23456, stage="predict", like="other"
    )

    assert json.loads(json.dumps(held.to_json())) == {
        "id": "green",
        "patch": "nbeatsx-unused-out",
        "model": "NBEATSx",
        "config": "MQLoss",
        "source": "patched",
        "expect": "pass",
        "outcome": "pass",
        "ok": True,
        "unused_parameters": ["out.weight", "out.bias"],
        "seconds": 1.235,
        "detail": "",
        "world_size": 2,
        "backend": "gloo",
        "steps": 3,
        "finite_loss": True,
        "equal_weights": True,
        "parameters": 100,
        "strategy": "strict-ddp",
        "forecast_shape": [24, 5],
        "finite_forecasts": True,
        "like": "other",
        "matches_reference": None,
        "refused": False,
        "refused_alone": False,
        "is_finished": True,
        "stage": "predict",
        "launcher": "torchrun",
        "requires": ["another"],
    }


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        (
            {"world_size": 1, "backend": None},
            "rank 1: torch reports world size 1 and backend None instead of 2 and gloo",
        ),
        ({"backend": "nccl"}, "rank 1: torch reports world size 2 and backend nccl instead of 2 and gloo"),
        ({"steps": 1}, "rank 1: 1 training steps, which proves nothing; at least 2 are needed"),
        ({"losses": (1.0, float("nan"))}, "rank 1: the loss is not finite"),
        ({"weights": "other"}, "the weights differ between ranks"),
        ({"weights": None}, "the weights differ between ranks"),
        ({"error": "ValueError: no"}, "rank 1: ValueError: no"),
    ],
)
def test_a_finished_fit_proves_nothing_if(flaw: dict, words: str) -> None:
    flawed = result(GREEN, TRAINED, changed(TRAINED, **flaw))

    assert (flawed.outcome, flawed.ok, flawed.detail) == ("error", False, words)


def test_of_several_errors_the_first_comes_first_without_duplicates() -> None:
    cause = changed(TRAINED, "ValueError: no")
    consequence = changed(TRAINED, "RuntimeError: connection closed", seconds=9.0)

    detail = result(GREEN, consequence, cause, changed(cause, seconds=2.0)).detail

    errors = [line.partition("Error: ")[0] for line in detail.splitlines()]
    assert errors == ["rank 1: Value", "rank 0: Runtime"]


def test_an_unused_parameter_is_not_green_even_if_ddp_does_not_raise() -> None:
    spoilt = result(GREEN, TRAINED, changed(TRAINED, unused=("gate.weight", "gate.bias")))

    assert spoilt == replace(
        PROVED,
        outcome="unused-parameters",
        ok=False,
        unused_parameters=("gate.weight", "gate.bias"),
        detail="unused: gate.weight, gate.bias",
        equal_weights=None,
        finite_forecasts=None,
    )


def test_an_error_of_ddp_is_not_green_even_without_unused_parameters() -> None:
    refused = changed(REFUSED, f"{REFUSED_BY_DDP} 1", unused=(), unused_last=(), unused_by_torch=None)

    for fits in ((refused, changed(refused, f"{REFUSED_BY_DDP} 2")), (TRAINED, refused)):
        spoilt = result(GREEN, *fits)
        assert (spoilt.outcome, spoilt.ok) == ("unused-parameters", False)
        assert spoilt.detail == f"unused: {REFUSED_BY_DDP} 1"


@pytest.mark.parametrize(
    ("fits", "words"),
    [
        (
            [changed(REFUSED, unused=(*DEAD, "gate.weight"))] * 2,
            difference([*DEAD, "gate.weight"], GREEN.unused_parameters),
        ),
        ([changed(REFUSED, "")] * 2, "rank 0: there are unused parameters, but DDP did not refuse them"),
        ([REFUSED, TRAINED], "rank 1: there are unused parameters, but DDP did not refuse them"),
        (
            [changed(REFUSED, unused_by_torch=("gate.weight", "gate.bias"))] * 2,
            "rank 0: torch names different parameters than were observed: gate.weight, gate.bias",
        ),
    ],
)
def test_an_error_is_not_the_one_of_the_patch_if(fits: list[Call], words: str) -> None:
    other = result(RED, *fits)

    assert (other.outcome, other.ok, other.detail) == ("unused-parameters", False, words)


def test_the_error_must_be_of_a_distributed_training() -> None:
    alone = changed(REFUSED, world_size=1, backend=None)

    assert result(RED, alone, alone).outcome == "error"


def test_an_original_that_trains_is_no_proof_of_a_bug() -> None:
    healthy = result(RED, TRAINED, TRAINED)

    assert (healthy.outcome, healthy.ok) == ("pass", False)


def test_with_find_unused_parameters_exactly_the_claimed_ones_are_unused() -> None:
    worked_around = replace(GREEN, source="released", strategy="find-unused-ddp", has_unused=True)
    fit = changed(TRAINED, unused=DEAD, unused_last=DEAD)

    assert result(worked_around, fit, fit).ok
    assert "not unused: out.*" in result(worked_around, TRAINED, TRAINED).detail
    more = changed(fit, unused=(*DEAD, "gate.weight"))
    assert "not claimed by the patch: gate.weight" in result(worked_around, more, more).detail


def test_the_single_process_fit_must_have_one_process() -> None:
    alone = replace(GREEN, strategy="single-process")

    assert result(alone, ALONE, ALONE).ok
    assert not result(alone, TRAINED, TRAINED).ok


@pytest.mark.parametrize("strategy", ["strict-ddp", "single-process"])
@pytest.mark.parametrize("comparison", [SAME, replace(SAME, removed=(), frozen=DEAD)], ids=["removed", "frozen"])
def test_a_bit_identical_fit_matches_its_reference(strategy: Strategy, comparison: FitCompared) -> None:
    like = replace(GREEN, strategy=strategy, like="other")
    fit = changed(ALONE if strategy == "single-process" else TRAINED, comparison=comparison)

    alike = result(like, fit, fit)

    assert (alike.outcome, alike.ok, alike.matches_reference) == ("pass", True, True)


NO_WEIGHTS = "rank 0: the result differs from other by up to 0: no weights, but the forecasts or losses"


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        (None, "rank 0: was not compared with other"),
        (
            {"different": ("gate.weight", "gate.bias"), "largest": 0.5},
            "rank 0: the result differs from other by up to 0.5: gate.weight, gate.bias",
        ),
        ({"forecasts_equal": False}, NO_WEIGHTS),
        ({"losses_equal": False}, NO_WEIGHTS),
        (
            {"removed": (*DEAD, "gate.weight", "gate.bias")},
            "rank 0: removed, but not claimed by the patch: gate.weight, gate.bias",
        ),
        (
            {"removed": (), "frozen": (*DEAD, "gate.weight")},
            "rank 0: frozen, but not claimed by the patch: gate.weight",
        ),
    ],
)
def test_a_fit_does_not_match_its_reference_if(flaw: Optional[dict], words: str) -> None:
    comparison = None if flaw is None else replace(SAME, **flaw)

    other = result(replace(GREEN, like="other"), *[changed(TRAINED, comparison=comparison)] * 2)

    assert (other.outcome, other.ok, other.detail) == ("error", False, words)


def test_with_three_ranks_the_last_bits_are_ignored() -> None:
    fit = changed(TRAINED, world_size=3, comparison=replace(SAME, different=("gate.weight",), largest=1e-9))

    like = result_of_calls(replace(GREEN, like="other"), [fit] * 3, world_size=3, backend="gloo")

    assert (like.ok, like.matches_reference) == (True, False)


STAGE = Case("NHITS", "predict", stage="predict")
STAGE_GREEN = ProofCase("stage", "predict-on-one-device", STAGE, "patched", "pass", forecast=None)
STAGE_RED = replace(STAGE_GREEN, source="released", expect="wrong", symptoms=("could not broadcast",))
DIFFERS = changed(TRAINED, differ="12 of 24 forecasts are not those of one process")
CRASHED = changed(TRAINED, "ValueError: could not broadcast input array", weights=None)
ANOTHER_SIZE = "rank 1: torch reports world size 1 and backend None instead of 2 and gloo"


def test_a_stage_is_green_if_every_rank_has_the_result_of_one_process() -> None:
    assert result(STAGE_GREEN, TRAINED, TRAINED) == replace(
        PROVED,
        id="stage",
        patch="predict-on-one-device",
        model="NHITS",
        config="predict",
        stage="predict",
        matches_reference=True,
        forecast_shape=None,
        finite_forecasts=False,
    )


@pytest.mark.parametrize(
    ("fits", "outcome", "words"),
    [
        ((TRAINED, DIFFERS), "wrong", f"rank 1: {DIFFERS.detail}"),
        ((DIFFERS, changed(DIFFERS, differ="another")), "wrong", f"rank 0: {DIFFERS.detail}\nrank 1: another"),
        ((DIFFERS, DIFFERS), "wrong", f"rank 0: {DIFFERS.detail}"),
        ((TRAINED, CRASHED), "error", f"rank 1: {CRASHED.detail}"),
        ((TRAINED, changed(TRAINED, forecasts=())), "wrong", "rank 1 and rank 0 have different forecasts"),
        (
            (TRAINED, changed(TRAINED, buffers="other")),
            "wrong",
            "rank 1 and rank 0 have different running statistics (buffers of the model)",
        ),
        (
            (changed(TRAINED, batches=("a", "b")), changed(TRAINED, batches=("a", "c"))),
            "wrong",
            "rank 1 and rank 0 have the series in different orders, at 1 of 2 steps",
        ),
        ((TRAINED, changed(TRAINED, weights="other")), "wrong", "the weights differ between ranks"),
        ((TRAINED, ALONE), "error", ANOTHER_SIZE),
        ((TRAINED, changed(TRAINED, losses=(float("inf"),))), "error", "rank 1: the loss is not finite"),
        (
            (TRAINED, changed(TRAINED, steps=1)),
            "error",
            "rank 1: 1 training steps, which proves nothing; at least 2 are needed",
        ),
        ((REFUSED, REFUSED), "unused-parameters", f"rank 0: {REFUSED.detail}"),
    ],
    ids=[
        *(
            "one rank differs",
            "both differ",
            "both differ alike",
            "one crashes",
            "forecasts",
            "buffers",
            "order of series",
        ),
        *("weights", "world size", "loss", "steps", "DDP refuses"),
    ],
)
def test_a_stage_is_not_green_if_any_rank_has_another_result(fits: tuple[Call, ...], outcome: str, words: str) -> None:
    red = result(STAGE_GREEN, *fits)
    assert (red.outcome, red.ok, red.detail) == (outcome, False, words)
    assert red.matches_reference is (False if outcome == "wrong" else None)


def test_the_released_source_is_red_if_it_differs_or_shows_a_symptom() -> None:
    assert result(STAGE_RED, TRAINED, DIFFERS).ok
    assert result(STAGE_RED, CRASHED, TRAINED).ok
    strange = changed(CRASHED, "ImportError: no such module")
    assert not result(STAGE_RED, strange, strange).ok
    fine = result(STAGE_RED, TRAINED, TRAINED)
    assert (fine.ok, fine.outcome) == (False, "pass")
    assert "2 ranks" in fine.detail
    assert "3 ranks" in result(STAGE_RED, *[changed(TRAINED, world_size=3)] * 3).detail


def test_an_error_of_one_process_too_is_ignored_without_a_patch() -> None:
    alone = changed(CRASHED, refused_by="one process")
    journey = replace(STAGE_GREEN, patch=None)
    checked = result(journey, alone, alone)
    assert (checked.outcome, checked.ok, checked.refused_alone) == ("error", True, True)
    assert "could not broadcast" in checked.detail
    assert result(journey, alone, CRASHED).ok  # a consequence
    assert result(journey, alone, DIFFERS).ok
    assert not result(journey, CRASHED, CRASHED).ok
    assert not result(journey, alone, TRAINED).ok
    assert not result(STAGE_GREEN, alone, alone).ok


def test_on_spark_the_bug_may_change_the_number_of_processes() -> None:
    spark = replace(STAGE_RED, launcher="spark")
    fewer = changed(DIFFERS, differ=DIFFERS.detail, world_size=1, backend=None)

    red = result(spark, TRAINED, fewer)

    assert (red.outcome, red.ok, red.detail) == ("wrong", True, f"rank 1: {DIFFERS.detail}")
    for case, fit in ((STAGE_RED, fewer), (replace(STAGE_GREEN, launcher="spark"), fewer), (spark, ALONE)):
        other = result(case, TRAINED, fit)
        assert (other.outcome, other.ok, other.detail) == ("error", False, ANOTHER_SIZE)
