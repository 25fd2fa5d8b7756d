"""Errors are described with the relevant locations, which are never in the package itself."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nfpatch.target.events import CallRaised
from nfpatch.target.models import trained_model_of
from nfpatch.target.outcomes import FailedElsewhere, describe_error, message_of
from nfpatch.target.saved.fitting import migrated_optimizers

NEURALFORECAST = """
def demand(freq):
    if not freq:
        raise ValueError("no freq was given")

def trust(freq):
    assert freq, "no freq was given"

def stumble(freq):
    return freq.upper()

def need(freq):
    raise ImportError("ray is not installed")
"""
# The part of its exception's message that torch sets
SENT = """

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "loop.py", line 3, in run
KeyError: 'series'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "loop.py", line 5, in run
    raise DataException("no such series")
data.DataException: no such series

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "fit.py", line 7, in fit
pandas.errors.ParserError: the file ends
  in the middle of an Error
"""


class ProcessRaisedException(Exception):
    """An error with the name that torch.multiprocessing uses for errors of other processes."""


@pytest.fixture
def neuralforecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An imported package of this name."""
    package = imported(tmp_path / "neuralforecast")
    monkeypatch.setitem(sys.modules, "neuralforecast", package)
    return package


def imported(folder: Path) -> ModuleType:
    folder.mkdir()
    (folder / "__init__.py").write_text(NEURALFORECAST, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


class Breaking:
    """A forecaster, and a model, that raise on access."""

    @property
    def models(self) -> object:
        raise ValueError("no models")

    @property
    def named_parameters(self) -> object:
        raise ValueError("no named_parameters")


def record_of(action: Callable[[], Any]) -> CallRaised:
    """The record of what an action raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        action()
    return describe_error(caught.value, 3)


def test_locations_exclude_the_packages_own_files() -> None:
    for action, place in (
        (partial(trained_model_of, Breaking()), "models"),
        (partial(migrated_optimizers, Breaking(), SimpleNamespace(state={}, optimizers=[]), []), "named_parameters"),
    ):
        record = record_of(action)

        assert record.message == f"ValueError: no {place}"
        assert {each.split(":")[0] for each in record.places} == {__file__}
        assert record.places[-1].endswith(f" in {place}")


def test_errors_of_the_package_itself_have_no_location() -> None:
    def nothing() -> None:
        trained_model_of(SimpleNamespace(models=[]))

    record = record_of(nothing)

    assert not record.by_neuralforecast
    assert [place.rpartition(" in ")[2] for place in record.places] == ["record_of", "nothing"]


def test_unused_parameters_are_read_from_torchs_message() -> None:
    def refuse() -> None:
        names = "Parameters which did not receive grad for rank 1: module.out.weight, module.out.bias"
        raise RuntimeError(f"Expected to have finished reduction in the prior iteration.\n{names}\n")

    assert record_of(refuse).unused == ("out.weight", "out.bias")


@pytest.mark.parametrize(
    ("name", "is_refusal"), [("demand", True), ("trust", True), ("stumble", False), ("need", False)]
)
def test_a_raise_statement_of_neuralforecast_is_a_refusal(
    neuralforecast: ModuleType, name: str, is_refusal: bool
) -> None:
    assert record_of(partial(getattr(neuralforecast, name), None)).by_neuralforecast is is_refusal


def test_a_place_in_neuralforecast_does_not_name_the_folder_of_the_install(neuralforecast: ModuleType) -> None:
    places = record_of(partial(neuralforecast.demand, None)).places

    assert places[-1].startswith("neuralforecast/__init__.py:")
    assert places[0].startswith(__file__)


@pytest.mark.usefixtures("neuralforecast")
def test_errors_of_other_packages_are_no_refusals(tmp_path: Path) -> None:
    beside = imported(tmp_path / "neuralforecast_beside")

    assert record_of(partial(beside.demand, None)).by_neuralforecast is False


def test_without_neuralforecast_there_are_no_refusals(tmp_path: Path) -> None:
    package = imported(tmp_path / "another")

    assert record_of(partial(package.demand, None)).by_neuralforecast is False


def test_an_error_of_another_process_has_its_own_text_only() -> None:
    def fail() -> None:
        raise FailedElsewhere("ValueError: no  freq\nwas given")

    assert record_of(fail) == CallRaised(3, "ValueError: no freq was given")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no freq\n  was given"), "ValueError: no freq was given"),
        (ProcessRaisedException(SENT), "pandas.errors.ParserError: the file ends in the middle of an Error"),
        (ProcessRaisedException("process 1\nwas killed"), "process 1 was killed"),
    ],
    ids=["an error here", "the last one of several there", "no error there"],
)
def test_an_exception_is_described_in_one_line(error: Exception, message: str) -> None:
    assert message_of(error) == message


def test_a_long_error_keeps_the_start_of_its_message_and_the_last_locations() -> None:
    def call(depth: int) -> None:
        if depth == 0:
            raise ValueError("no " * 1000)
        call(depth - 1)

    record = record_of(partial(call, 9))

    assert record.message == ("ValueError: " + "no " * 1000)[:1000]
    assert [place.rpartition(" in ")[2] for place in record.places] == ["call"] * 3
