"""The calls of neuralforecast in a script, each noted with where it is made, what it trains and how it ends."""

from __future__ import annotations

import atexit
import functools
import platform
import sys
from types import ModuleType
from typing import Any, Callable

from ..events import CallRaised, CallReturned, CallStarted, ProcessEnded, ProcessStarted, SourceImported
from ..frames import described
from ..observing import digest_of, parameters_named_by_torch
from ..outcomes import message_of, places_of
from . import alone
from .arguments import options_and_data
from .files import watch_files
from .importing import AfterImport
from .line_trace import watch_lookups
from .noting import Notes, notes_of_environment, place_in_script
from .own_code import replaced_methods
from .shortening import give_ray_gpus, is_search, pretend_gpus, widen, wrap_trainer
from .training import watcher, wrap_fit

# Of the forecaster, of what searches, and of a model that is used without a forecaster
CALLS = ("fit", "predict", "predict_insample", "cross_validation", "simulate", "explain", "save", "load")
MODEL_CALLS = ("fit", "predict")
# How many frames of an exception are noted
LAST_FRAMES = 30
# Calls that give forecasts, which one process can be asked for as well
ASKED_ALONE = ("predict", "predict_insample", "cross_validation")
BASES = {
    "_base_auto": ("BaseAuto",),
    "_base_model": ("BaseModel",),
    "_base_windows": ("BaseWindows",),
    "_base_recurrent": ("BaseRecurrent",),
    "_base_multivariate": ("BaseMultivariate",),
}


def begin() -> None:
    """Watches this process, which has just started."""
    notes = notes_of_environment()
    if notes.rank is None:
        return
    if notes.is_rank:
        notes.write(ProcessStarted(platform.python_version()))
        notes.watch_place()
        watch_files(notes)
        watch_lookups(notes.trace)
        atexit.register(end, notes)
        notes.trace.start()
    actions: dict[str, Callable[[ModuleType], None]] = {
        "pytorch_lightning": functools.partial(watch_lightning, notes),
        "ray": functools.partial(give_ray_gpus, notes),
        "neuralforecast": functools.partial(tell_source, notes),
        "neuralforecast.core": lambda module: watch_class(notes, module.NeuralForecast, CALLS),
    }
    for name, classes in BASES.items():
        actions[f"neuralforecast.common.{name}"] = functools.partial(watch_models, notes, classes)
    sys.meta_path.insert(0, AfterImport(actions))


def end(notes: Notes) -> None:
    """Notes that the process ends by itself."""
    if notes.is_main:
        notes.trace.stop()
        error = getattr(sys, "last_value", None)  # what nothing has caught
        words = "" if error is None else f"{type(error).__name__}: {error}"[:1000]
        notes.write(ProcessEnded(tuple(notes.trace.steps), words))


def watch_lightning(notes: Notes, module: ModuleType) -> None:
    """Shortens and watches each trainer."""
    pretend_gpus(notes)
    wrap_trainer(notes, module.Trainer, functools.partial(watcher, notes))
    wrap_fit(notes, module.Trainer)


def tell_source(notes: Notes, module: ModuleType) -> None:
    """Notes which neuralforecast it is."""
    notes.write(SourceImported(module.__file__))


def watch_models(notes: Notes, classes: tuple[str, ...], module: ModuleType) -> None:
    """Watches models that a script uses without a forecaster."""
    for name in classes:
        if hasattr(module, name):
            watch_class(notes, getattr(module, name), MODEL_CALLS)


def watch_class(notes: Notes, owner: Any, names: tuple[str, ...]) -> None:
    """Watches those methods of a class that it has itself."""
    for name in names:
        method = owner.__dict__.get(name)
        if isinstance(method, staticmethod):
            setattr(owner, name, staticmethod(watched(notes, owner.__name__, name, method.__func__)))
        elif callable(method):
            setattr(owner, name, watched(notes, owner.__name__, name, method))


def watched(notes: Notes, owner: str, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which notes each call that the script makes of it."""

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        number = notes.enter(f"{owner}.{name}")
        try:
            if number is None:
                return method(*arguments, **options)
            state = alone.random_state()
            return noted(notes, alone.Call(number, f"{owner}.{name}", method, arguments, options, state))
        finally:
            notes.leave()

    return call


def noted(notes: Notes, call: alone.Call) -> Any:
    """What a call of the script's gives; how it goes is noted."""
    file, line = place_in_script()
    number, subject = call.number, call.arguments[0] if call.arguments else None
    models = alone.models_of(subject)
    options, data = options_and_data(call.method, call.arguments, call.options, models)
    labels = tuple(type(model).__name__ for model in models)
    steps = tuple(notes.trace.steps)
    notes.write(CallStarted(number, call.name, file, line, labels, search_of(models), options, data, steps))
    for replaced in set(replaced_methods(notes.spec.patched, models)) - notes.replaced:
        notes.replaced.add(replaced)
        notes.write(replaced)
    for model in models:
        widen(notes, model)
    notes.trained.clear()
    try:
        answer = call.method(*call.arguments, **call.options)
    except BaseException as error:
        message = message_of(error) if isinstance(error, Exception) else f"{type(error).__name__}: {error}"
        unused = parameters_named_by_torch(str(error))
        notes.write(CallRaised(number, message[:4000], unused, tuple(places_of(error, LAST_FRAMES))))
        if isinstance(error, Exception) and unused is None and notes.rank == 0:
            ask_whether_one_is_refused(notes, call, models)
        raise
    trained = alone.models_of(subject)
    best = [getattr(model, "model", model) for model in trained]  # of a search; a model itself has none
    weights = tuple(digest_of(model) for model in best if hasattr(model, "named_parameters"))
    chosen = tuple(chosen_by(model) for model in trained if hasattr(model, "results"))
    notes.write(CallReturned(number, described(answer), weights, chosen))
    if is_asked_alone(notes, call, models):
        alone.ask_again(notes, call, answer)
    return answer


def ask_whether_one_is_refused(notes: Notes, call: alone.Call, models: list[Any]) -> None:
    """Notes whether a call that has failed is refused to one process as well; of a search through ray it is not known.

    The trials of such a search train elsewhere.
    """
    if call.name.endswith(".load") or (is_asked_alone(notes, call, models) and not notes.trained):
        alone.ask_again(notes, call)
    elif call.name.endswith(".fit") and models and search_of(models) != "ray-search":
        alone.train_alone(notes, call)


def is_asked_alone(notes: Notes, call: alone.Call, models: list[Any]) -> bool:
    """Whether one process can be asked for what this call gives: forecasts, and no search on the way to them."""
    name = call.name.partition(".")[2]
    return notes.rank == 0 and name in ASKED_ALONE and not (name == "cross_validation" and any(map(is_search, models)))


def search_of(models: list[Any]) -> str:
    """By which stage of a proof a search shows, if a model is one; empty else."""
    backends = [getattr(model, "backend", "ray") for model in models if is_search(model)]
    return "" if not backends else "search" if "optuna" in backends else "ray-search"


def chosen_by(model: Any) -> str:
    """The trial that a search has found best, with the number of trials."""
    results = model.results
    if hasattr(results, "best_trial"):
        best = results.best_trial
        return f"trial {best.number} of {len(results.trials)}: {best.params}, loss {best.value}"
    best = results.get_best_result()
    numbers = {name: value for name, value in best.config.items() if isinstance(value, (bool, int, float, str))}
    return "of {} trials: {}, loss {}".format(len(results), numbers, best.metrics.get("loss"))
