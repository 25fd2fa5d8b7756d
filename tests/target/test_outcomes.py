"""What went wrong is told with the places that matter, which are never the package's own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

from nfpatch.target.models import trained_model_of
from nfpatch.target.observing import OBSERVED
from nfpatch.target.outcomes import outcome_of
from nfpatch.target.saved.optimizers import optimizers_for


class Breaking:
    """A forecaster, and a model, that break when they are looked at."""

    @property
    def models(self) -> object:
        raise ValueError("no models")

    @property
    def parameters(self) -> object:
        raise ValueError("no parameters")


def test_the_places_are_those_of_others() -> None:
    for action, place in (
        (partial(trained_model_of, Breaking()), "models"),
        (partial(optimizers_for, Breaking(), SimpleNamespace(state={}, optimizers=[]), []), "parameters"),
    ):
        outcome, detail = outcome_of(action)

        message, *places = detail.splitlines()
        assert (outcome, message) == ("error", f"ValueError: no {place}")
        assert [each.split(":")[0] for each in places] == [__file__]
        assert places[0].endswith(f" in {place}")


def test_what_the_package_itself_raises_has_no_place_and_is_no_refusal_of_neuralforecasts() -> None:
    def nothing() -> None:
        trained_model_of(SimpleNamespace(models=[]))

    outcome, detail = outcome_of(nothing)

    assert outcome == "error"
    assert [line.rpartition(" in ")[2] for line in detail.splitlines()[1:]] == ["nothing"]
    assert OBSERVED["refused"] is False


def test_torchs_refusal_is_told_apart() -> None:
    def refuse() -> None:
        raise RuntimeError("Expected to have finished reduction in the prior iteration before ...")

    assert outcome_of(refuse)[0] == "unused-parameters"
    assert outcome_of(lambda: None) == ("pass", "")
