"""What a rehearsal records of user code: deciding lines, replaced methods, and layers of user classes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nfpatch.target.rehearsal import arguments, own_code
from nfpatch.target.rehearsal.line_trace import LONGEST, LineTrace, watch_lookups

PREDICT = "neuralforecast/models.py:Base.predict"
UPSTREAM = """
from layers import Linear

class Base:
    def __init__(self):
        self.out = Linear()

    def predict(self):
        return "upstream"

    def fit(self):
        return "upstream"

def call(callback):
    return callback()
"""
LAYERS = """
def write(callback):
    return callback()

class Parameter:
    requires_grad = True

class Module:
    def named_parameters(self):
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value
            elif isinstance(value, Module):
                yield from ((f"{name}.{inner}", parameter) for inner, parameter in value.named_parameters())

class Linear(Module):
    def __init__(self):
        self.weight = Parameter()
        self.bias = Parameter()
"""
MakeModule = Callable[[str], ModuleType]


@pytest.fixture
def make_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeModule]:
    """Import a user module with this text, which may import neuralforecast."""
    package = tmp_path / "site-packages" / "neuralforecast"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models.py").write_text(UPSTREAM)
    (package.parent / "layers.py").write_text(LAYERS)
    for folder in (tmp_path, package.parent):
        monkeypatch.syspath_prepend(str(folder))
    names = {"neuralforecast", "neuralforecast.models", "layers", "script"}

    def make(text: str) -> ModuleType:
        (tmp_path / "script.py").write_text(text)
        return importlib.import_module("script")

    yield make
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[LineTrace]:
    for module, name in ((os.path, "exists"), (os.path, "isfile"), (os.path, "isdir"), (os, "listdir")):
        monkeypatch.setattr(module, name, getattr(module, name))
    for name in ("exists", "is_file", "is_dir"):
        monkeypatch.setattr(Path, name, getattr(Path, name))
    found, before = LineTrace(), sys.gettrace()
    watch_lookups(found)
    sys.settrace(None)
    yield found
    found.stop()
    sys.settrace(before)


def traced(trace: LineTrace, action: Callable[..., Any], *given: Any) -> dict[int, tuple[str, ...]]:
    """The trace of a function, by line, in its first run."""
    trace.start()
    action(*given)
    trace.stop()
    return {step.line: step.seen for step in reversed(trace.steps) if step.file.endswith("script.py")}


def test_lines_of_user_code_are_recorded_with_the_values_in_conditions(
    make_module: MakeModule, trace: LineTrace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = make_module("""
import json, os
from pathlib import Path
def main(folder, coin, model):
    json.dumps([coin])
    if coin and model:
        pass
    if os.environ.get("LOCAL_RANK", "0") == "0" or os.environ["LOCAL_RANK"]:
        pass
    if os.path.isfile(folder + "/a.done"):
        pass
    for path in sorted(os.listdir(folder)):
        found = Path(folder, path).exists()
    try:
        os.mkdir(folder)
    except OSError:
        pass
""")
    monkeypatch.setenv("LOCAL_RANK", "3")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "b.done").touch()
    seen = traced(trace, script.main, str(tmp_path / "runs"), False, object())
    assert seen[5] == ()
    assert seen[6] == ("coin is False",)
    assert seen[8] == ("LOCAL_RANK in the environment is '3'",)
    assert f"{tmp_path}/runs/a.done does not exist" in seen[10]
    assert seen[12] == (f"{tmp_path}/runs has 1 entries",)
    assert seen[13] == (f"{tmp_path}/runs/b.done exists",)
    assert len(seen[15]) == 1
    assert "FileExistsError" in seen[15][0]


def test_actions_of_user_code_have_its_line_even_through_a_package(make_module: MakeModule) -> None:
    script = make_module("""
from layers import write
from neuralforecast.models import call

def on_train_end(find_place):
    return call(lambda: write(find_place))

def fit(find_place):
    return call(find_place)
""")
    assert script.on_train_end(own_code.place_in_own_code) == f"{script.__file__}:6"
    assert script.fit(own_code.place_in_own_code) == ""


def test_a_running_function_is_traced_from_the_start_of_the_trace(make_module: MakeModule, trace: LineTrace) -> None:
    script = make_module("""
def main(start):
    coin = 1
    start()
    if coin:
        return coin
""")
    script.main(trace.start)
    trace.stop()
    assert [(step.line, step.seen) for step in trace.steps if step.file.endswith("script.py")] == [
        (5, ("coin is 1",)),
        (6, ()),
    ]


def test_only_the_first_lines_and_no_other_packages_are_recorded(make_module: MakeModule, trace: LineTrace) -> None:
    script = make_module("""
from neuralforecast.models import Base
def main():
    Base()
    for index in range(1000):
        pass
""")
    traced(trace, script.main)
    assert len(trace.steps) == LONGEST
    assert {os.path.basename(step.file) for step in trace.steps} <= {"script.py", "test_own_code.py"}
    assert sys.gettrace() is None
    assert traced(trace, lambda: None) == {}


def test_a_users_tracer_is_kept(trace: LineTrace) -> None:
    def own(*event: Any) -> None:
        return None

    sys.settrace(own)
    trace.start()
    trace.stop()
    assert sys.gettrace() is own


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Base.predict = lambda self: 'mine'", 3),
        ("def predict(self):\n    return 'mine'\nBase.predict = predict", 3),
        ("class Mine(Base):\n    def predict(self):\n        return 'mine'\nmodel = Mine()", 4),
        ("class Mine(Base):\n    def predict(self):\n        return super().predict()\nmodel = Mine()", None),
        ("kept = Base.predict\ndef predict(self):\n    return kept(self)\nBase.predict = predict", None),
        (
            "import functools\ndef wrapped(function):\n    @functools.wraps(function)\n"
            "    def predict(self):\n        return function(self)\n    return predict\n"
            "Base.predict = wrapped(Base.predict)",
            None,
        ),
        ("Base.fit = lambda self: 'mine'", None),
        ("", None),
    ],
)
def test_a_method_is_replaced_if_nothing_calls_the_original(
    make_module: MakeModule, text: str, line: int | None
) -> None:
    script = make_module(f"\nfrom neuralforecast.models import Base\n{text}\n")
    models = [script.model] if hasattr(script, "model") else []
    found = list(
        own_code.replaced_methods([PREDICT, "neuralforecast/none.py:f", "neuralforecast/models.py:No.f"], models)
    )
    assert [(each.function, Path(each.file).name, each.line) for each in found] == (
        [] if line is None else [(PREDICT, "script.py", line)]
    )


@pytest.mark.parametrize(
    ("unused", "expected"),
    [
        (["adapter.weight", "adapter.bias"], [("self.adapter", "Own", 8)]),
        (["adapter.weight"], [("self.adapter.weight", "Own", 8)]),
        (["head.extra.weight", "head.extra.bias"], [("self.extra", "Head", 18)]),
        (["out.weight"], []),  # a layer that upstream creates
        (["added.weight", "added.bias"], []),  # no class creates it
        (["scale", "out.weight"], [("self.scale", "Own", 10)]),
    ],
)
def test_an_unused_layer_is_the_users_if_a_users_class_creates_it(
    make_module: MakeModule, unused: list[str], expected: list[tuple[str, str, int]]
) -> None:
    script = make_module("""
from layers import Linear, Module, Parameter
from neuralforecast.models import Base

class Own(Base, Module):
    def __init__(self):
        super().__init__()
        self.adapter = Linear()
        self.head = Head()
        self.scale = Parameter()

class Derived(Own):
    pass

class Head(Module):
    def __init__(self):
        self.used = Linear()
        self.extra = Linear()

model = Derived()
model.added = Linear()
""")
    found = own_code.own_layers(script.model, unused)
    assert [(each.layer, each.owner, each.line) for each in found] == expected


def test_arguments_are_compared_by_content() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"unique_id": ["a", "b"], "y": [1.0, 2.0]})

    class Model:
        hparams = {"h": 6, "loss": object(), "mlp_units": [[8, 8]]}  # noqa: RUF012
        trainer_kwargs = {"max_steps": 4, "callbacks": [object()]}  # noqa: RUF012

    def fit(self: Any, df: Any, val_size: int = 0) -> None:
        pass

    def given(frame: Any, models: Any = ()) -> Any:
        return arguments.describe_arguments(fit, (None, frame), {"val_size": 6}, list(models))

    options, data = given(frame, [Model()])
    assert options == {"Model.h": "6", "Model.mlp_units": "[[8, 8]]", "Model.max_steps": "4", "val_size": "6"}
    assert [*data] == ["df"]
    assert data == given(frame.iloc[::-1])[1]  # whatever the order of its rows
    assert data != given(frame.assign(y=[1.0, 3.0]))[1]
    assert data != given(frame.iloc[:1])[1]
    two, _ = given(frame, [Model(), Model()])
    assert {"Model 1.h", "Model 2.h"} <= two.keys()
