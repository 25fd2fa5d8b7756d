"""Each check finds its fault in the facts of a call or of a case, and nothing if there is none."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from nfpatch.engine import checks
from nfpatch.engine.checks import (
    CHECKS,
    different_data,
    diverging_calls,
    errors,
    first_finding,
    shared_files,
    unused_parameters,
    world_size,
)
from nfpatch.engine.facts import Call, CallFacts, Decision
from nfpatch.target.events import (
    CallRaised,
    CallReturned,
    CallStarted,
    Frame,
    OwnLayerUnused,
    ProcessEnded,
    ReferenceMade,
    Training,
)

GOTTEN = CallReturned(0, (Frame(24, (), None, 0, "a"),), weights=("w",))
RETURNED = Call(CallStarted(0, "NeuralForecast.fit", line=10), returned=GOTTEN)
TRAINED = Training(
    model="NHITS", world_size=2, backend="gloo", steps=4, validated=(2.0,), weights="w", buffers="b", batches=("x", "y")
)
REFUSED = CallRaised(0, "parameters that were not used in producing the loss", unused=("out.weight",))
OTHER_FILE = {"/home/me/model.ckpt": {"opened"}}


def changed(**changes: Any) -> Call:
    """The call as another rank made it; what it was given and what it returned by the names of the events."""
    given, gotten = (
        {each.name: changes.pop(each.name) for each in fields(kind) if each.name in changes}
        for kind in (CallStarted, CallReturned)
    )
    returned = None if "raised" in changes else replace(GOTTEN, **gotten)
    return replace(RETURNED, **{"returned": returned, "started": replace(RETURNED.started, **given), **changes})


def call_of(on_rank_1: Call = RETURNED, training: Training = TRAINED, is_case: bool = False) -> CallFacts:
    """A call on two ranks, of which the second may have other facts."""
    return CallFacts(
        ranks={
            0: changed(written=on_rank_1.written, trainings={0: TRAINED}),
            1: replace(on_rank_1, trainings={0: training}),
        },
        world_size=2,
        is_case=is_case,
        backend="gloo" if is_case else None,
    )


# Name of the check -> facts of the call or the training that differ on the second rank
FAULTS: dict[str, dict[str, Any]] = {
    "unused_parameters": {"on_rank_1": changed(raised=REFUSED)},
    "errors": {"on_rank_1": changed(raised=CallRaised(0, "KeyError: 'y'"))},
    "search_choice": {"on_rank_1": changed(chosen=("trial 1",))},
    "hangs": {"on_rank_1": changed(returned=None)},
    "diverging_calls": {"on_rank_1": changed(line=11)},
    "different_data": {"on_rank_1": changed(data={"df": "10 rows"})},
    "world_size": {"training": replace(TRAINED, world_size=3)},
    "evidence": {"training": replace(TRAINED, steps=1), "is_case": True},
    "reference": {"on_rank_1": changed(references=[ReferenceMade(0, differ="12 of 24 rows differ")])},
    "series_order": {"training": replace(TRAINED, batches=("x", "z"))},
    "running_statistics": {"training": replace(TRAINED, buffers="other")},
    "training_steps": {"training": replace(TRAINED, steps=3)},
    "training_stops": {"training": replace(TRAINED, steps=1, stopped_by="/home/me/train.py:37", stopped_after=1)},
    "training_weights": {"training": replace(TRAINED, weights="other")},
    "validation_loss": {"training": replace(TRAINED, validated=(2.5,))},
    "model_weights": {"on_rank_1": changed(weights=("other",))},
    "forecasts": {"on_rank_1": changed(forecasts=(Frame(24, (), None, 0, "b"),))},
    "shared_files": {"on_rank_1": changed(written=OTHER_FILE)},
}


def name_of(check: Any) -> str:
    return check.__name__.rpartition(".")[2]


def faulty(name: str) -> CallFacts:
    facts = call_of(**FAULTS[name])
    if name != "search_choice":
        return facts
    return with_rank_0(facts, chosen=("trial 0",))


def with_rank_0(facts: CallFacts, **changes: Any) -> CallFacts:
    """The facts of a call whose first rank has other facts."""
    return replace(facts, ranks={**facts.ranks, 0: changed(trainings={0: TRAINED}, **changes)})


def test_every_module_of_the_folder_is_registered_once() -> None:
    modules = {path.stem for path in Path(checks.__file__).parent.glob("*.py")} - {"__init__"}

    assert sorted(map(name_of, CHECKS)) == sorted(modules)
    assert modules == FAULTS.keys()


@pytest.mark.parametrize("is_case", [False, True])
def test_a_correct_call_has_no_finding(is_case: bool) -> None:
    assert first_finding(call_of(is_case=is_case)) is None


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_each_check_is_the_first_to_find_its_fault(check: Any) -> None:
    facts = faulty(name_of(check))
    found = check.find(facts)

    assert found is not None
    assert found.outcome != "pass"
    assert check.WHY
    assert first_finding(facts) == replace(found, why=check.WHY)
    assert first_finding(facts, [other for other in CHECKS if other is not check]) != first_finding(facts)
    assert check.find(call_of(is_case=facts.is_case)) is None


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"hangs", "diverging_calls"}))
def test_a_case_is_checked_like_a_call_of_a_script(name: str) -> None:
    assert first_finding(replace(faulty(name), is_case=True, backend="gloo")) is not None


def test_diverging_ranks_are_the_cause_of_their_errors() -> None:
    failed = CallRaised(0, "RuntimeError: params[0] appears not to match")
    facts = call_of(changed(raised=failed, models=("NBEATS",)))

    found = first_finding(with_rank_0(facts, models=("NHITS",)))

    assert found is not None
    assert (found.outcome, found.stages) == ("wrong", ())
    for words in ("rank 0", "NHITS", "rank 1", "NBEATS", failed.message):
        assert words in found.detail


@pytest.mark.parametrize(
    ("absent", "size", "is_found"),
    [
        (Call(ended=ProcessEnded()), 2, True),  # a training of all ranks
        (Call(ended=ProcessEnded()), 1, False),  # what one rank does by itself
        (Call(ended=ProcessEnded(), failed_before="NeuralForecast.load, line 9"), 2, False),
        (Call(), 2, False),  # it may still come
    ],
)
def test_a_rank_that_exits_before_a_call_diverges_from_those_that_train_in_it(
    absent: Call, size: int, is_found: bool
) -> None:
    made = changed(trainings={0: replace(TRAINED, world_size=size)})
    facts = CallFacts({0: made, 1: absent}, world_size=2)

    assert (diverging_calls.find(facts) is not None) == is_found


@pytest.mark.parametrize(
    ("text", "side", "in_remedy"),
    [
        ("if os.path.isfile(path):", "", "after a call on all"),
        ("if name in done:", "/tmp/a.done exists", "after a call on all"),
        ('if os.environ["LOCAL_RANK"] == "0":', "", "on every rank"),
        ("if random.random() < 0.5:", "", "os.environ.setdefault"),
        ("if time.time() > stop:", "stop is 7", "os.environ.setdefault"),
        ("os.mkdir(folder)", "raises FileExistsError: [Errno 17] File exists: 'a'", "exist_ok=True"),
    ],
)
def test_the_advice_depends_on_the_condition(text: str, side: str, in_remedy: str) -> None:
    decision = Decision("/home/me/train.py", 8, text, {0: f"continues in line 9 ({side})", 1: "continues in line 11"})
    facts = replace(call_of(**FAULTS["diverging_calls"]), decision=decision)

    found = diverging_calls.find(facts)

    assert found is not None
    assert in_remedy in "\n".join(found.remedy)
    for words in ("train.py:8", text, "rank 0 continues in line 9", side, "rank 1 continues in line 11"):
        assert words in found.detail


def test_different_data_are_reported_before_different_options() -> None:
    options = changed(options={"NHITS.learning_rate": "0.1"})
    both = changed(options={"NHITS.learning_rate": "0.1"}, data={"df": "10 rows"})

    by_options = different_data.because_of_arguments(call_of(options), "the weights differ")
    by_both = different_data.because_of_arguments(call_of(both), "the weights differ")

    assert different_data.because_of_arguments(call_of(), "the weights differ") is None
    assert different_data.find(call_of(options)) is None  # on their own they may be harmless
    assert by_options is not None
    assert by_both is not None
    assert by_options.remedy != by_both.remedy
    for words in ("NHITS.learning_rate", "0.1 on rank 1", "the weights differ"):
        assert words in by_options.detail
        assert words in by_both.detail
    assert "10 rows" in by_both.detail


def test_an_unused_layer_of_a_users_class_is_reported_with_the_line_to_add() -> None:
    layer = OwnLayerUnused("self.adapter", "OwnModel", "/home/me/train.py", 15, ("adapter.weight", "adapter.bias"))
    refused = CallRaised(0, REFUSED.message, unused=("adapter.weight", "adapter.bias", "out.weight"))
    trained = replace(TRAINED, own_layers=(layer,))

    found = unused_parameters.find(call_of(changed(raised=refused), trained))

    assert found is not None
    assert found.unused == ("out.weight",)  # a patch is searched for only for this one
    assert "OwnModel" in found.detail
    assert "/home/me/train.py:15" in found.detail
    assert "    self.adapter.requires_grad_(False)" in found.remedy


def test_an_error_of_the_scripts_own_code_is_reported_as_such() -> None:
    library = "/env/lib/python3.11/site-packages/torch/nn/modules/module.py:7 in __getattr__"
    upstream = "/env/lib/python3.11/site-packages/neuralforecast/core.py:700 in fit"
    own = "/home/me/losses.py:12 in __call__"
    places = {"own": (upstream, own, library), "upstream": (own, upstream, library)}

    by = {
        name: errors.find(call_of(changed(raised=CallRaised(0, "KeyError: 'y'", places=each))))
        for name, each in places.items()
    }

    assert by["own"] is not None
    assert by["upstream"] is not None
    assert by["own"].detail.endswith(f"at {own}")
    assert by["upstream"].detail.endswith("at neuralforecast/core.py:700 in fit")
    assert by["own"].remedy
    assert not by["upstream"].remedy


def test_an_error_in_a_library_is_not_reported_as_the_scripts_own() -> None:
    places = ("/env/lib/python3.11/site-packages/torch/nn/parallel/distributed.py:1775 in _pre_forward",)
    found = errors.find(call_of(changed(raised=CallRaised(0, "KeyError: 'y'", places=places))))

    assert found is not None
    assert found.detail.endswith("at torch/nn/parallel/distributed.py:1775 in _pre_forward")
    assert not found.remedy


@pytest.mark.parametrize("search", ["", "search"])
def test_an_error_is_a_fault_of_a_search_only_if_there_is_one(search: str) -> None:
    failure = CallRaised(0, "RuntimeError: params[0] appears not to match sizes of the same param in process 0")
    found = errors.find(with_rank_0(call_of(changed(raised=failure)), search=search))

    assert found is not None
    assert ("search" in found.stages) == bool(search)


def test_a_file_written_by_the_scripts_own_code_has_its_line_and_no_patch() -> None:
    own = changed(written=OTHER_FILE, writers=dict.fromkeys(OTHER_FILE, "/home/me/train.py:24"))
    found = shared_files.find(call_of(own))

    assert found is not None
    assert (found.stages, "train.py:24" in found.detail) == ((), True)
    assert any("is_global_zero" in line for line in found.remedy)


def test_a_single_device_training_of_the_script_is_no_fault() -> None:
    one = changed(trainings={0: replace(TRAINED, world_size=1)})
    kept = replace(one, one_device="SingleDeviceStrategy")

    assert world_size.find(CallFacts({0: one, 1: one}, world_size=2)) is not None
    assert world_size.find(CallFacts({0: kept, 1: kept}, world_size=2)) is None


def test_a_case_with_unknown_weights_is_a_fault() -> None:
    unknown = replace(TRAINED, weights=None)

    assert first_finding(call_of(training=unknown)) is None
    assert first_finding(call_of(training=unknown, is_case=True)) is not None


def test_causes_are_checked_before_consequences() -> None:
    closed = changed(raised=CallRaised(0, "RuntimeError: Connection closed by peer"), end=1.0)
    cause = changed(raised=CallRaised(0, "ValueError: no", None, ("a.py:1 in f",)), end=2.0)
    facts = replace(call_of(), ranks={0: closed, 1: cause})

    found = first_finding(facts)

    assert found is not None
    assert found.message == "ValueError: no"
    assert [error.partition("\n")[0] for error in found.errors] == [
        "rank 1: ValueError: no",
        "rank 0: RuntimeError: Connection closed by peer",
    ]
