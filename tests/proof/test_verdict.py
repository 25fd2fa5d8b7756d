"""What the ranks report is a proof only if all of it fits together."""

from dataclasses import replace
from typing import Optional

import pytest

from nfpatch.catalog import Case
from nfpatch.proof.verdict import CaseResult, Comparison, Fit, ProofCase, Strategy, difference, result_of_fits

GREEN = ProofCase("green", "nbeatsx-unused-out", Case("NBEATSx", "MQLoss"), "preview", "pass", ("out.*",))
RED = replace(GREEN, id="red", source="original", expect="unused-parameters")

TRAINED = Fit(
    outcome="pass",
    detail="",
    seconds=1.0,
    world_size=2,
    backend="gloo",
    steps=3,
    finite_loss=True,
    unused=(),
    unused_last=(),
    unused_by_torch=None,
    parameters=100,
    digest="abc",
    forecast_shape=(24, 5),
    due_shape=(24, 5),
    finite_forecasts=True,
)
DEAD = ("out.weight", "out.bias")
REFUSED = replace(
    TRAINED,
    outcome="unused-parameters",
    detail="RuntimeError: parameters that were not used in producing the loss",
    steps=1,
    unused=DEAD,
    unused_last=DEAD,
    unused_by_torch=DEAD[::-1],
    digest=None,
    forecast_shape=None,
    due_shape=None,
    finite_forecasts=None,
)
ALONE = replace(TRAINED, world_size=1, backend=None)
SAME = Comparison(different=(), largest=0.0, forecasts_equal=True, losses_equal=True, removed=DEAD)


def result(case: ProofCase, *fits: Fit) -> CaseResult:
    return result_of_fits(case, fits, world_size=2, backend="gloo")


def test_names_and_patterns_that_match_each_other_exactly_do_not_differ() -> None:
    assert difference(["out.weight", "out.bias"], ["out.weight", "out.b*"]) == ""


def test_a_name_that_no_pattern_claims_is_told() -> None:
    assert difference(["out.weight", "gate.0.weight"], ["out.*"]).endswith("not claimed by the patch: gate.0.weight")


def test_a_pattern_that_matches_no_name_is_told() -> None:
    assert difference(["out.weight"], ["out.*", "gate.*"]).endswith("not without a gradient: gate.*")


def test_a_pattern_has_to_match_the_whole_name() -> None:
    assert difference(["layout.weight"], ["out.*"]) != ""


def test_green_is_a_fit_that_every_rank_passed() -> None:
    green = result(GREEN, TRAINED, replace(TRAINED, seconds=2.0))

    assert (green.outcome, green.ok, green.detail) == ("pass", True, "")
    assert (green.world_size, green.backend, green.steps, green.seconds) == (2, "gloo", 3, 2.0)
    assert green.finite_loss is True
    assert green.equal_weights is True


def test_red_is_a_refusal_that_names_exactly_what_the_patch_claims() -> None:
    red = result(RED, REFUSED, REFUSED)

    assert (red.outcome, red.ok, red.detail) == ("unused-parameters", True, "")
    assert red.unused_parameters == DEAD
    assert red.equal_weights is None


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"world_size": 1, "backend": None}, "world size 1 and backend None"),
        ({"backend": "nccl"}, "backend nccl"),
        ({"steps": 1}, "1 training steps, which proves nothing"),
        ({"finite_loss": False}, "loss is not finite"),
        ({"digest": "other"}, "different weights"),
        ({"digest": None}, "different weights"),
        ({"forecast_shape": None, "due_shape": None}, "forecasts have the shape None"),
        ({"forecast_shape": (24, 1)}, "shape (24, 1), and not (24, 5)"),
        ({"finite_forecasts": False}, "not all forecasts are finite"),
        ({"outcome": "error", "detail": "ValueError: no"}, "rank 1: ValueError: no"),
    ],
)
def test_a_fit_that_went_through_proves_nothing_if(flaw: dict, words: str) -> None:
    flawed = result(GREEN, TRAINED, replace(TRAINED, **flaw))

    assert (flawed.outcome, flawed.ok) == ("error", False)
    assert words in flawed.detail


def test_of_several_errors_the_first_is_told_first_and_none_is_told_twice() -> None:
    cause = replace(TRAINED, outcome="error", detail="ValueError: no", seconds=1.0)
    consequence = replace(TRAINED, outcome="error", detail="RuntimeError: connection closed", seconds=9.0)

    detail = result(GREEN, consequence, cause, replace(cause, seconds=2.0)).detail

    assert detail == "rank 1: ValueError: no\nrank 0: RuntimeError: connection closed"


def test_a_missing_gradient_spoils_green_even_where_ddp_kept_quiet() -> None:
    spoilt = result(GREEN, TRAINED, replace(TRAINED, unused=("gate.weight",)))

    assert (spoilt.outcome, spoilt.ok, spoilt.unused_parameters) == ("unused-parameters", False, ("gate.weight",))
    assert "gate.weight" in spoilt.detail


@pytest.mark.parametrize(
    ("fits", "words"),
    [
        ([replace(REFUSED, unused=(*DEAD, "gate.weight"))] * 2, "not claimed by the patch: gate.weight"),
        ([replace(REFUSED, outcome="pass")] * 2, "DDP did not refuse"),
        ([REFUSED, TRAINED], "DDP did not refuse"),
        ([replace(REFUSED, unused_by_torch=("gate.weight",))] * 2, "torch names other parameters"),
    ],
)
def test_a_refusal_is_not_the_one_that_the_patch_claims_if(fits: list[Fit], words: str) -> None:
    other = result(RED, *fits)

    assert (other.outcome, other.ok) == ("unused-parameters", False)
    assert words in other.detail


def test_a_refusal_must_have_been_a_distributed_one() -> None:
    alone = replace(REFUSED, world_size=1, backend=None)

    assert result(RED, alone, alone).outcome == "error"


def test_an_original_that_trains_is_no_proof_of_a_bug() -> None:
    healthy = result(RED, TRAINED, TRAINED)

    assert (healthy.outcome, healthy.ok) == ("pass", False)
    assert healthy.detail


def test_a_strategy_that_puts_up_with_dead_parameters_must_have_exactly_those_that_the_patch_claims() -> None:
    worked_around = replace(GREEN, source="original", strategy="find-unused-ddp", leaves_dead=True)
    fit = replace(TRAINED, unused=DEAD, unused_last=DEAD)

    assert result(worked_around, fit, fit).ok
    assert "not without a gradient: out.*" in result(worked_around, TRAINED, TRAINED).detail
    more = replace(fit, unused=(*DEAD, "gate.weight"))
    assert "not claimed by the patch: gate.weight" in result(worked_around, more, more).detail


def test_a_single_process_must_have_been_one() -> None:
    alone = replace(GREEN, strategy="single-process")

    assert result(alone, ALONE, ALONE).ok
    assert "world size 2 and backend gloo where 1 and None" in result(alone, TRAINED, TRAINED).detail


@pytest.mark.parametrize("strategy", ["strict-ddp", "single-process"])
def test_a_fit_that_ends_bit_for_bit_like_another_is_alike(strategy: Strategy) -> None:
    like = replace(GREEN, strategy=strategy, like="other")
    fit = replace(ALONE if strategy == "single-process" else TRAINED, comparison=SAME)

    alike = result(like, fit, fit)

    assert (alike.outcome, alike.ok, alike.equal_to_like) == ("pass", True, True)


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        (None, "was not compared with other"),
        ({"different": ("gate.weight",), "largest": 0.5}, "by up to 0.5; different are gate.weight"),
        ({"forecasts_equal": False}, "none of the weights, but the forecasts"),
        ({"losses_equal": False}, "none of the weights, but the forecasts or losses"),
        ({"removed": (*DEAD, "gate.weight")}, "removed, but not claimed by the patch: gate.weight"),
    ],
)
def test_a_fit_is_not_alike_if(flaw: Optional[dict], words: str) -> None:
    comparison = None if flaw is None else replace(SAME, **flaw)

    other = result(replace(GREEN, like="other"), *[replace(TRAINED, comparison=comparison)] * 2)

    assert (other.outcome, other.ok) == ("error", False)
    assert words in other.detail


def test_with_three_ranks_the_last_bits_are_no_part_of_the_proof() -> None:
    fit = replace(TRAINED, world_size=3, comparison=replace(SAME, different=("gate.weight",), largest=1e-9))

    like = result_of_fits(replace(GREEN, like="other"), [fit] * 3, world_size=3, backend="gloo")

    assert (like.ok, like.equal_to_like) == (True, False)


STAGE = Case("NHITS", "predict", stage="predict")
STAGE_GREEN = ProofCase("stage", "predict-on-one-device", STAGE, "preview", "pass", forecast=None)
STAGE_RED = replace(STAGE_GREEN, source="original", expect="wrong", symptoms=("could not broadcast",))
DIFFERS = replace(TRAINED, outcome="wrong", detail="12 of 24 forecasts are not those of one process")
CRASHED = replace(TRAINED, outcome="error", detail="ValueError: could not broadcast input array", digest=None)


def test_a_stage_is_green_where_every_rank_got_what_one_process_gets() -> None:
    green = result(STAGE_GREEN, TRAINED, TRAINED)
    assert (green.outcome, green.ok, green.stage) == ("pass", True, "predict")
    assert green.to_json()["launcher"] == "torchrun"


@pytest.mark.parametrize(
    ("fits", "outcome", "words"),
    [
        ((TRAINED, DIFFERS), "wrong", "rank 1: 12 of 24"),
        ((DIFFERS, replace(DIFFERS, detail="another")), "wrong", "rank 1: another"),
        ((TRAINED, CRASHED), "error", "rank 1: ValueError"),
        ((TRAINED, replace(TRAINED, answers=("a",))), "wrong", "rank 1: has other forecasts than rank 0"),
        ((TRAINED, replace(TRAINED, buffers="other")), "wrong", "rank 1: has other running statistics"),
        (
            (replace(TRAINED, batches=("a", "b")), replace(TRAINED, batches=("a", "c"))),
            "wrong",
            "rank 1: has the series in another order than rank 0, at 1 of 2 steps",
        ),
        ((TRAINED, replace(TRAINED, digest="other")), "wrong", "different weights"),
        ((TRAINED, ALONE), "error", "world size 1"),
        ((TRAINED, replace(TRAINED, finite_loss=False)), "error", "not finite"),
        ((TRAINED, replace(TRAINED, steps=1)), "error", "proves nothing"),
        ((REFUSED, REFUSED), "unused-parameters", "not used in producing the loss"),
    ],
    ids=[
        *("one rank differs", "both differ", "one crashes", "forecasts", "buffers", "order of series"),
        *("weights", "world size", "loss", "steps", "DDP refuses"),
    ],
)
def test_a_stage_is_not_green_where_any_rank_got_something_else(
    fits: tuple[Fit, ...], outcome: str, words: str
) -> None:
    red = result(STAGE_GREEN, *fits)
    assert (red.outcome, red.ok) == (outcome, False)
    assert words in red.detail


def test_the_original_is_red_where_it_ends_otherwise_or_with_the_words_of_the_bug() -> None:
    assert result(STAGE_RED, TRAINED, DIFFERS).ok
    assert result(STAGE_RED, CRASHED, TRAINED).ok
    strange = replace(CRASHED, detail="ImportError: no such module")
    assert not result(STAGE_RED, strange, strange).ok
    fine = result(STAGE_RED, TRAINED, TRAINED)
    assert (fine.ok, fine.detail) == (False, "every rank got what one process gets")


def test_what_one_process_refuses_as_well_counts_for_nothing_where_no_patch_is_at_stake() -> None:
    alone = replace(CRASHED, refused_alone=True)
    journey = replace(STAGE_GREEN, patch=None)
    told = result(journey, alone, alone)
    assert (told.outcome, told.ok, told.refused_alone) == ("error", True, True)
    assert "could not broadcast" in told.detail
    assert result(journey, alone, CRASHED).ok  # a consequence
    assert not result(journey, CRASHED, CRASHED).ok
    assert not result(journey, alone, TRAINED).ok
    assert not result(STAGE_GREEN, alone, alone).ok
