"""Records the calls of neuralforecast in a script: their places, arguments, models, and results or exceptions."""

from __future__ import annotations

import atexit
import functools
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable

from ..events import CallReturned, CallStarted, ProcessEnded, ProcessStarted, SourceImported
from ..frames import records_of
from ..observing import digest_of
from ..outcomes import describe_error
from . import reference_run
from .arguments import describe_arguments
from .files import watch_files
from .line_trace import watch_lookups
from .overrides import give_ray_gpus, is_search, override_devices, pretend_gpus, wrap_trainer
from .own_code import place_in_script, replaced_methods
from .recorder import EventRecorder, recorder_from_environment
from .training import watcher, wrap_fit, wrap_stopping

# By module: the forecaster, searches, and models, which a script may use without a forecaster
CLASSES = {
    "neuralforecast.core": "NeuralForecast",
    "neuralforecast.common._base_auto": "BaseAuto",
    "neuralforecast.common._base_model": "BaseModel",
    "neuralforecast.common._base_windows": "BaseWindows",
    "neuralforecast.common._base_recurrent": "BaseRecurrent",
    "neuralforecast.common._base_multivariate": "BaseMultivariate",
}
CALLS = ("fit", "predict", "predict_insample", "cross_validation", "simulate", "explain", "save", "load")
MODEL_CALLS = ("fit", "predict")
# How much of an exception is recorded
LONGEST_MESSAGE, LAST_FRAMES = 4000, 30
# Calls that return forecasts, which a single-process reference can make too
CALLS_WITH_REFERENCE = ("predict", "predict_insample", "cross_validation")


def install_hooks() -> None:
    """Installs all hooks in this process, which has just started."""
    recorder = recorder_from_environment()
    if recorder.rank is None:
        return
    if recorder.is_rank:
        watch_process(recorder)
    actions: dict[str, Callable[[EventRecorder, ModuleType], None]] = {
        "pytorch_lightning": watch_lightning,
        "ray": give_ray_gpus,
        "neuralforecast": record_source,
        **dict.fromkeys(CLASSES, watch_class),
    }
    sys.meta_path.insert(0, AfterImport({name: functools.partial(act, recorder) for name, act in actions.items()}))


class AfterImport:
    """A finder for `sys.meta_path` that calls the action for a module after its import.

    It must be the first finder. The module keeps the loader that another finder returns.
    """

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self._actions = actions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of a module that has an action; None for others, which the next finder finds."""
        if name not in self._actions:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)
        if spec is not None and spec.loader is not None:
            act_after(spec.loader, self._actions[name])
        return spec


def act_after(loader: Any, action: Callable[[ModuleType], None]) -> None:
    """Makes a loader, which belongs to one module, call the action after it has executed the module."""
    run = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        run(module)
        action(module)

    loader.exec_module = exec_module


def watch_process(recorder: EventRecorder) -> None:
    """Records the start and the end of this process, and the files that it writes."""
    recorder.write(ProcessStarted(recorder.is_within))
    recorder.enable_stack_dumps()
    watch_files(recorder)
    watch_lookups(recorder.trace)
    atexit.register(record_end, recorder)


def record_end(recorder: EventRecorder) -> None:
    """Records that the process exits by itself."""
    if recorder.is_main:
        recorder.trace.stop()
        error = getattr(sys, "last_value", None)  # the uncaught exception
        words = "" if error is None else f"{type(error).__name__}: {error}"[:1000]
        recorder.write(ProcessEnded(tuple(recorder.trace.steps), words))


def watch_lightning(recorder: EventRecorder, module: ModuleType) -> None:
    """Shortens and observes each trainer."""
    pretend_gpus(recorder)
    wrap_trainer(recorder, module.Trainer, functools.partial(watcher, recorder))
    wrap_fit(recorder, module.Trainer)
    wrap_stopping(module.Trainer)


def record_source(recorder: EventRecorder, module: ModuleType) -> None:
    """Records which neuralforecast was imported, and starts to trace the script."""
    recorder.write(SourceImported(module.__file__))
    recorder.join_rank()
    if recorder.is_main:
        recorder.trace.start()


def watch_class(recorder: EventRecorder, module: ModuleType) -> None:
    """Wraps those methods of the class of a module that it defines itself."""
    owner = getattr(module, CLASSES[module.__name__])
    for name in CALLS if owner.__name__ == "NeuralForecast" else MODEL_CALLS:
        method = owner.__dict__.get(name)
        if method is not None:
            wrapped = wrap_method(recorder, f"{owner.__name__}.{name}", getattr(method, "__func__", method))
            setattr(owner, name, staticmethod(wrapped) if isinstance(method, staticmethod) else wrapped)


def wrap_method(recorder: EventRecorder, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which records the calls that the script makes."""

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        number = recorder.enter()
        if number == 0 and recorder.is_within:
            watch_process(recorder)
        try:
            if number is None:
                return method(*arguments, **options)
            state = reference_run.random_state()
            return run_and_record(recorder, reference_run.Call(number, name, method, arguments, options, state))
        finally:
            recorder.leave()

    return call


def run_and_record(recorder: EventRecorder, call: reference_run.Call) -> Any:
    """Makes a call of the script, and records its start, its result or exception, and its single-process reference."""
    file, line = place_in_script()
    number, subject = call.number, call.arguments[0] if call.arguments else None
    models = reference_run.models_of(subject)
    options, data = describe_arguments(call.method, call.arguments, call.options, models)
    labels = tuple(type(model).__name__ for model in models)
    steps = tuple(recorder.trace.steps)
    recorder.write(CallStarted(number, call.name, file, line, labels, search_of(models), options, data, steps))
    for replaced in set(replaced_methods(recorder.spec.patched, models)) - recorder.replaced:
        recorder.replaced.add(replaced)
        recorder.write(replaced)
    for model in models:
        override_devices(recorder, model)
    recorder.trained.clear()
    try:
        answer = call.method(*call.arguments, **call.options)
    except BaseException as error:
        raised = describe_error(error, number, LONGEST_MESSAGE, LAST_FRAMES)
        recorder.write(raised)
        if isinstance(error, Exception) and raised.unused is None and recorder.rank == 0:
            record_single_process_error(recorder, call, models)
        raise
    trained = reference_run.models_of(subject)
    best = [getattr(model, "model", model) for model in trained]  # the best model of a search
    weights = tuple(digest_of(model) for model in best if hasattr(model, "named_parameters"))
    chosen = tuple(describe_choice(model) for model in trained if hasattr(model, "results"))
    recorder.write(CallReturned(number, records_of(answer), weights, chosen))
    if has_reference_run(recorder, call, models):
        reference_run.replay_in_single_process(recorder, call, answer)
    return answer


def record_single_process_error(recorder: EventRecorder, call: reference_run.Call, models: list[Any]) -> None:
    """Records the exception of a single process for a call that failed, if it raises one too.

    Searches through ray are left out, because their trials train in other processes.
    """
    if call.name.endswith(".load") or (has_reference_run(recorder, call, models) and not recorder.trained):
        reference_run.replay_in_single_process(recorder, call)
    elif call.name.endswith(".fit") and models and search_of(models) != "ray-search":
        reference_run.train_in_single_process(recorder, call)


def has_reference_run(recorder: EventRecorder, call: reference_run.Call, models: list[Any]) -> bool:
    """Whether a single process can make this call again: it returns forecasts, and does not search for models."""
    name = call.name.partition(".")[2]
    return (
        recorder.rank == 0
        and name in CALLS_WITH_REFERENCE
        and not (name == "cross_validation" and any(map(is_search, models)))
    )


def search_of(models: list[Any]) -> str:
    """The stage of a proof for searches like these; empty if no model is a search."""
    backends = [getattr(model, "backend", "ray") for model in models if is_search(model)]
    return "" if not backends else "search" if "optuna" in backends else "ray-search"


def describe_choice(model: Any) -> str:
    """The best trial of a search, and the number of trials."""
    results = model.results
    if hasattr(results, "best_trial"):
        best = results.best_trial
        return f"trial {best.number} of {len(results.trials)}: {best.params}, loss {best.value}"
    best = results.get_best_result()
    numbers = {name: value for name, value in best.config.items() if isinstance(value, (bool, int, float, str))}
    return "of {} trials: {}, loss {}".format(len(results), numbers, best.metrics.get("loss"))
