"""Trains the cases of a proof; one process of a launch by `python -m torch.distributed.run worker.py SPEC`.

This script runs in the interpreter whose neuralforecast is meant, so it is valid Python 3.7 and imports nothing of
nfpatch. It reports facts and judges nothing. SPEC is a JSON file:

    trees         {source: folder to put first on sys.path, or null for neuralforecast as it is found}
    cases         [{id, source, model, loss, exogenous, options, strategy, like}]; all cases of one source follow each
                  other. `strategy` is "strict-ddp", "find-unused-ddp" or "single-process"; `like` names an earlier
                  case from whose first weights this one starts, and with which its end is compared, or is null
    accelerator   "cpu" or "gpu"
    backend       "gloo" or "nccl", the process group's backend
    max_steps     training steps of each fit; at least two, as DDP complains at the second
    timeout       seconds after which the process ends itself, should nobody else have ended it
    out           folder for rank-N.jsonl (events, below) and rank-N.log (standard output and error)

Each event is one JSON object on one line, written at once, so that a killed process leaves its evidence:

    {event: "hello", pid, python}              first of all
    {event: "stack", torch, lightning}         the heavy imports are done
    {event: "imported", source, file}          neuralforecast was imported from `file`
    {event: "started", case}
    {event: "finished", case, outcome, detail, seconds, ...}   with the fields of `no_evidence` beside it
    {event: "done"}                            last of all
"""

# mypy: disable-error-code="import-not-found,import-untyped,misc"
# torch, Lightning and pandas are there in the target interpreter only.

from __future__ import annotations

import ctypes
import datetime
import faulthandler
import hashlib
import importlib
import inspect
import json
import math
import os
import platform
import random
import re
import signal
import sys
import threading
import time
import traceback
from functools import partial
from itertools import groupby
from typing import Any, Callable, NoReturn

# Both are the same refusal: the torch reducer's words, and what Lightning 2 replaces them with.
UNUSED_PARAMETERS_MESSAGES = (
    "Expected to have finished reduction in the prior iteration",
    "parameters that were not used in producing the loss",
)
# Printed by the torch reducer when TORCH_DISTRIBUTED_DEBUG is INFO or DETAIL.
UNUSED_PARAMETERS_NAMES = re.compile(r"Parameters which did not receive grad for rank \d+: ([^\n]+)")
# What Lightning 1 and 2 put in front of a parameter's name when they wrap the model for DDP.
WRAPPER_PREFIX = re.compile(r"^(module\.|_forward_module\.)+")

# How long, in seconds, a rank waits for the others at the end of a case before it gives the launch up.
LOCKSTEP_TIMEOUT = 30
# Seconds that the process outlives the proof's time-out when nobody ends it, which is the runner's task.
SELF_DESTRUCTION_DELAY = 30

# How much of an exception is reported.
LAST_FRAMES = 3
LONGEST_MESSAGE = 1000

STRATEGY_NAME = "nfpatch-ddp"
# Set before every case, so that two of them draw the same numbers.
SEED = 1
# What losses without a default for some argument are given.
LOSS_ARGUMENTS = {"distribution": "Normal", "q": 0.5, "seasonality": 12}
SMALL_SIZES = {"h": 12, "input_size": 24}
EXOGENOUS_COLUMNS = {
    "static": ("stat_exog_list", ["airline1"]),
    "historic": ("hist_exog_list", ["y_[lag12]"]),
    "future": ("futr_exog_list", ["trend"]),
}
# Releases before this one put a TQDMProgressBar into the trainer, which contradicts `enable_progress_bar=False`.
FIRST_RELEASE_WITHOUT_PROGRESS_BAR = (1, 7)

# What the callback saw of the running fit. A module-level dictionary, because `NeuralForecast.fit` deep-copies
# models together with their callbacks.
OBSERVED: dict[str, Any] = {}
# By the id of the case: {"first", "last": weights by name, "forecasts": array} of the fits that went through. Plain
# tensors, as the classes of one source tree mean nothing to another.
FITTED: dict[str, dict[str, Any]] = {}


def no_evidence() -> dict[str, Any]:
    """The evidence before a fit has begun."""
    return {
        "world_size": None,  # as torch.distributed reports it during training; 1 where there is no process group
        "backend": None,  # likewise; None where there is no process group
        "steps": 0,  # optimizer steps taken
        "finite_loss": True,  # of every step
        "unused": [],  # trainable parameters without a gradient after the backward pass of any step
        "unused_last": [],  # the same, of the last backward pass only
        "unused_by_torch": None,  # the names in torch's own complaint
        "parameters": None,  # how many numbers the trainable parameters are
        "digest": None,  # SHA-256 over all parameters after the fit
        "forecast_shape": None,  # [rows, columns] of what NeuralForecast.predict gave
        "due_shape": None,  # what they must be: series x horizon, outputs of the loss
        "finite_forecasts": None,  # whether every forecast is a finite number
        "comparison": None,  # with the case that this one is like, as `compared` returns it
    }


class Events:
    """The file of a rank's events."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event: str, **fields: Any) -> None:
        """Writes one event, safe from whatever happens to the process afterwards."""
        line = (json.dumps(dict(fields, event=event)) + "\n").encode()
        while line:  # a disk that fills up takes the first part of a line before it fails
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)


def redirect_output(path: str) -> None:
    """Sends standard output and error to a file, C++ libraries included."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)


def end_with_parent() -> None:
    """Makes this process end when the launcher that started it dies, however it dies."""
    parent = os.getppid()

    def watch() -> NoReturn:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform.startswith("linux"):
        # The thread cannot run while C code holds the interpreter lock, nor in a stopped process. The kernel can.
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def print_stack_when_asked() -> None:
    """Makes a crash, and SIGUSR1, by which the runner asks a process that hangs, print where the process is.

    To be renewed for every case: after a fit, Lightning resets all signal handlers that Python does not know of.
    """
    faulthandler.disable()
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.unregister(signal.SIGUSR1)
        faulthandler.register(signal.SIGUSR1, all_threads=False)


def import_neuralforecast(tree: str | None, base_path: list[str]) -> Any:
    """neuralforecast, freshly imported from `tree`, or from where `base_path` has it if `tree` is None.

    torch, Lightning and ray stay imported, so that a further source costs less than a second.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == "neuralforecast"]:
        del sys.modules[name]
    sys.path[:] = ([] if tree is None else [tree]) + base_path
    importlib.invalidate_caches()
    return importlib.import_module("neuralforecast")


def recorder() -> Any:
    """A callback that notes in `OBSERVED` what the fit really does."""
    import pytorch_lightning
    import torch

    class Recorder(pytorch_lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            # A process group of an earlier case may be there while this one trains alone.
            parallel = isinstance(trainer.strategy, pytorch_lightning.strategies.ParallelStrategy)
            distributed = parallel and torch.distributed.is_available() and torch.distributed.is_initialized()
            OBSERVED["world_size"] = torch.distributed.get_world_size() if distributed else 1
            OBSERVED["backend"] = str(torch.distributed.get_backend()) if distributed else None
            OBSERVED["parameters"] = sum(p.numel() for p in module.parameters() if p.requires_grad)

        def on_train_batch_start(self, trainer: Any, module: Any, *batch: Any) -> None:
            # torch before 2.0 resets gradients to zero, which would hide a parameter unused from the second step on.
            for parameter in module.parameters():
                parameter.grad = None

        def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
            OBSERVED["finite_loss"] = OBSERVED["finite_loss"] and math.isfinite(loss.item())

        def on_after_backward(self, trainer: Any, module: Any) -> None:
            unused = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
            OBSERVED["unused_last"] = unused
            OBSERVED["unused"] = OBSERVED["unused"] + [name for name in unused if name not in OBSERVED["unused"]]

        def on_train_batch_end(self, trainer: Any, module: Any, *batch: Any) -> None:
            OBSERVED["steps"] = trainer.global_step

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            # Called before Lightning 2 replaces torch's words, names included, by its own.
            OBSERVED["unused_by_torch"] = parameters_named_by_torch(str(exception))

    return Recorder()


def parameters_named_by_torch(message: str) -> list[str] | None:
    """The parameters that a torch reducer's complaint names, as the model calls them; None if it names none."""
    found = UNUSED_PARAMETERS_NAMES.search(message)
    return None if found is None else [WRAPPER_PREFIX.sub("", name.strip()) for name in found.group(1).split(",")]


def trainer_arguments(case: dict[str, Any], spec: dict[str, Any], release: str) -> dict[str, Any]:
    """Arguments for Lightning's trainer: the strategy of the case, observed, and nothing written to disk."""
    alone = case["strategy"] == "single-process"
    arguments = {
        **(arguments_alone(spec) if alone else arguments_together(spec, case["strategy"] == "find-unused-ddp")),
        "callbacks": [recorder()],
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    if tuple(int(number) for number in re.findall(r"\d+", release)[:2]) >= FIRST_RELEASE_WITHOUT_PROGRESS_BAR:
        arguments["enable_progress_bar"] = False
    return arguments


def arguments_together(spec: dict[str, Any], find_unused_parameters: bool) -> dict[str, Any]:
    """What makes Lightning train by DDP over the processes of this launch.

    The strategy goes by a name: a strategy object serves one trainer, and some releases hand it to several.
    """
    from pytorch_lightning.plugins.environments import TorchElasticEnvironment
    from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

    StrategyRegistry.register(
        STRATEGY_NAME,
        DDPStrategy,
        override=True,
        # Asked for by name, because Lightning 1 looks for unused parameters by default and so hides the bug.
        find_unused_parameters=find_unused_parameters,
        process_group_backend=spec["backend"],
        # Else Lightning prefers a surrounding SLURM job's idea of the ranks.
        cluster_environment=TorchElasticEnvironment(),
    )
    local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "accelerator": spec["accelerator"],
        "devices": local_world_size,
        "num_nodes": int(os.environ["WORLD_SIZE"]) // local_world_size,
        "strategy": STRATEGY_NAME,
    }


def arguments_alone(spec: dict[str, Any]) -> dict[str, Any]:
    """What makes Lightning work in this process alone, whatever launched it."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    return {
        "accelerator": spec["accelerator"],
        "devices": 1 if spec["accelerator"] == "cpu" else [int(os.environ["LOCAL_RANK"])],
        "plugins": [LightningEnvironment()],
    }


def loss_of(case: dict[str, Any]) -> Any:
    """The loss that a case names, with arguments where it insists on them."""
    loss_class = getattr(importlib.import_module("neuralforecast.losses.pytorch"), case["loss"])
    parameters = inspect.signature(loss_class.__init__).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD]
    return loss_class(**{name: LOSS_ARGUMENTS[name] for name in required if name in LOSS_ARGUMENTS})


def model_of(case: dict[str, Any], max_steps: int, trainer: Callable[[], dict[str, Any]]) -> Any:
    """The model of a case, untrained; `trainer` gives the arguments that go to Lightning's trainer, anew each time."""
    model_class = getattr(importlib.import_module("neuralforecast.models"), case["model"], None)
    if model_class is None:
        return search_of(case, max_steps, trainer)
    arguments = dict(SMALL_SIZES, loss=loss_of(case), **case_arguments(case, max_steps), **trainer())
    if "n_series" in inspect.signature(model_class.__init__).parameters:
        arguments.update(multivariate_arguments())
    return model_class(**arguments)


def search_of(case: dict[str, Any], max_steps: int, trainer: Callable[[], dict[str, Any]]) -> Any:
    """A search for hyperparameters through Optuna with one trial, after which the best model is trained anew."""
    search_class = getattr(importlib.import_module("neuralforecast.auto"), case["model"])
    sizes = dict(SMALL_SIZES)
    return search_class(
        h=sizes.pop("h"),
        loss=loss_of(case),
        config=lambda trial: dict(sizes, **case_arguments(case, max_steps), **trainer()),
        num_samples=1,
        backend="optuna",
    )


def case_arguments(case: dict[str, Any], max_steps: int) -> dict[str, Any]:
    """The arguments for a model's constructor that the case itself decides about."""
    exogenous = dict(EXOGENOUS_COLUMNS[kind] for kind in case["exogenous"])
    return dict(exogenous, max_steps=max_steps, **case["options"])


def trained_model_of(forecaster: Any) -> Any:
    """The model that was trained: of a search, the one that it came to. 1.6.0 keeps the untrained ones as `models`."""
    model = getattr(forecaster, "models_fitted", forecaster.models)[0]
    base_model_name = type(model).__mro__[1].__name__
    return model.model if base_model_name == "BaseAuto" else model


def multivariate_arguments() -> dict[str, Any]:
    """Arguments for a model that wants all series in every batch, so that they must not be dealt out to the ranks.

    This is what neuralforecast itself does from 3.2.0 on. In earlier releases a rank would miss series.
    """
    from pytorch_lightning import Trainer

    lightning_2 = "use_distributed_sampler" in inspect.signature(Trainer.__init__).parameters
    return {"n_series": 2, "use_distributed_sampler" if lightning_2 else "replace_sampler_ddp": False}


def digest_of(model: Any) -> str:
    """SHA-256 over the raw bytes of all parameters, in the order of their names."""
    digest = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tensors_of(model: Any) -> dict[str, Any]:
    """All that a model has learned or computed, by name. Lightning 1.6 breaks `state_dict` of a copied model."""
    return dict(model.named_parameters(), **dict(model.named_buffers()))


def weights_of(model: Any) -> dict[str, Any]:
    """A copy of these tensors."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors_of(model).items()}


def start_from(model: Any, weights: dict[str, Any]) -> None:
    """Gives a model these weights; those that it has no place for are left out."""
    import torch

    own = tensors_of(model)
    strange = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if strange:
        raise ValueError("the original model has no weights for " + ", ".join(strange))
    with torch.no_grad():
        for name in own:
            own[name].copy_(weights[name])


def compared(fitted: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """How the end of a fit differs from that of its reference; two bit-equal ends differ in nothing and by nothing."""
    import torch

    last, like = fitted["last"], reference["last"]
    forecasts = torch.from_numpy(fitted["forecasts"]), torch.from_numpy(reference["forecasts"])
    same_shape = forecasts[0].shape == forecasts[1].shape
    return {
        "different": [name for name in last if not torch.equal(last[name], like[name])],
        "largest": max((largest_difference(last[name], like[name]) for name in last), default=0.0),
        "forecasts_equal": same_shape and torch.equal(*forecasts),
        "removed": [name for name in like if name not in last],
    }


def largest_difference(one: Any, other: Any) -> float:
    """The largest difference between two tensors of the same shape."""
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def seed_everything() -> None:
    """Starts all streams of random numbers anew."""
    import numpy
    import torch

    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


def fit(case: dict[str, Any], spec: dict[str, Any], package: Any) -> None:
    """Trains one case, forecasts with it, and leaves the evidence in `OBSERVED`; raises whatever goes wrong.

    The data are the air passengers panel of neuralforecast, two series, less the horizon at the end. Lightning deals
    them out to the ranks, which therefore have something to agree on.
    """
    import pandas

    seed_everything()
    model = model_of(case, spec["max_steps"], partial(trainer_arguments, case, spec, package.__version__))
    if case["like"] is not None:
        if case["like"] not in FITTED:
            raise RuntimeError("nothing to compare with: {} did not train".format(case["like"]))
        start_from(model, FITTED[case["like"]]["first"])
    first = weights_of(model)
    utils = importlib.import_module("neuralforecast.utils")
    # neuralforecast 1.0.0 knows no such argument.
    static = {"static_df": utils.AirPassengersStatic} if "static" in case["exogenous"] else {}
    by_series = utils.AirPassengersPanel.groupby("unique_id")
    # pandas 3 has dropped the alias "M".
    freq = "M" if int(pandas.__version__.split(".")[0]) < 3 else "ME"
    forecaster = package.NeuralForecast(models=[model], freq=freq)
    seed_everything()
    forecaster.fit(df=by_series.head(-model.h).reset_index(drop=True), **static)
    fitted = trained_model_of(forecaster)
    OBSERVED["digest"] = digest_of(fitted)
    future = {"futr_df": by_series.tail(model.h).reset_index(drop=True)} if "future" in case["exogenous"] else {}
    forecasts = forecasts_of(forecaster, spec, future)
    OBSERVED["forecast_shape"] = list(forecasts.shape)
    OBSERVED["due_shape"] = [model.h * by_series.ngroups, len(fitted.loss.output_names)]
    OBSERVED["finite_forecasts"] = all(map(math.isfinite, forecasts.flat))
    FITTED[case["id"]] = {"first": first, "last": weights_of(fitted), "forecasts": forecasts}
    if case["like"] is not None:
        OBSERVED["comparison"] = compared(FITTED[case["id"]], FITTED[case["like"]])


def forecasts_of(forecaster: Any, spec: dict[str, Any], future: dict[str, Any]) -> Any:
    """What `NeuralForecast.predict` gives, as an array: a row a series and point in time, a column an output.

    Predicted by this process alone: in a distributed prediction a rank would see only its share of the series.
    """
    model = trained_model_of(forecaster)
    training_only = ("strategy", "num_nodes", "callbacks")
    kept = {name: value for name, value in model.trainer_kwargs.items() if name not in training_only}
    model.trainer_kwargs = dict(kept, **arguments_alone(spec))
    frame = forecaster.predict(**future)
    return frame[[name for name in frame.columns if name not in ("unique_id", "ds")]].to_numpy(dtype="float64")


def outcome_of(action: Callable[[], None]) -> tuple[str, str]:
    """(outcome, detail) of a fit: "pass", "unused-parameters" or "error" with the exception and its last frames."""
    try:
        action()
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if any(words in message for words in UNUSED_PARAMETERS_MESSAGES):
            return "unused-parameters", message
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-LAST_FRAMES:]]
        return "error", "\n".join([message[:LONGEST_MESSAGE], *places])
    return "pass", ""


def run_case(case: dict[str, Any], action: Callable[[], None], events: Events) -> None:
    """Runs the action of one case between its two events."""
    print_stack_when_asked()
    events.write("started", case=case["id"])
    OBSERVED.clear()
    OBSERVED.update(no_evidence())
    begin = time.monotonic()
    outcome, detail = outcome_of(action)
    seconds = time.monotonic() - begin
    events.write("finished", case=case["id"], outcome=outcome, detail=detail, seconds=seconds, **OBSERVED)


class Lockstep:
    """Lets the ranks leave a case together.

    A rank that failed alone must not go on to the next case while another still waits for it in a collective of this
    one: their messages would mix. The barrier has a process group of its own for the same reason.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def wait(self) -> None:
        """Waits for all ranks; raises RuntimeError that names a rank which does not come in `LOCKSTEP_TIMEOUT`."""
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return  # no fit has got as far as a process group, on any rank
        timeout = datetime.timedelta(seconds=LOCKSTEP_TIMEOUT)
        if self._group is None:
            self._group = distributed.new_group(backend="gloo", timeout=timeout)
        distributed.monitored_barrier(group=self._group, timeout=timeout)


def run_source(
    source: str,
    cases: list[dict[str, Any]],
    spec: dict[str, Any],
    base_path: list[str],
    events: Events,
    lockstep: Lockstep,
) -> None:
    """Imports one source of neuralforecast and trains its cases; a failed import is the outcome of all of them."""
    try:
        package = import_neuralforecast(spec["trees"][source], base_path)
    except Exception as error:
        failure = error

        def fail() -> NoReturn:
            raise failure

        for case in cases:
            run_case(case, fail, events)
        return
    events.write("imported", source=source, file=getattr(package, "__file__", None))
    for case in cases:
        run_case(case, partial(fit, case, spec, package), events)
        lockstep.wait()


def main(spec_path: str) -> NoReturn:
    """Runs all cases of the specification in this process, one rank of the launch."""
    with open(spec_path, encoding="utf-8") as file:
        spec = json.load(file)
    end_with_parent()
    rank_path = os.path.join(spec["out"], "rank-" + os.environ["RANK"])
    redirect_output(rank_path + ".log")
    print_stack_when_asked()
    faulthandler.dump_traceback_later(spec["timeout"] + SELF_DESTRUCTION_DELAY, exit=True)
    events = Events(rank_path + ".jsonl")
    events.write("hello", pid=os.getpid(), python=platform.python_version())

    if os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]:
        # On a single machine the ranks need no name service: the launcher's answer may be a name nobody resolves.
        os.environ["MASTER_ADDR"] = "127.0.0.1"

    here = os.path.dirname(os.path.abspath(__file__))
    base_path = [entry for entry in sys.path if entry not in ("", here)]
    sys.path[:] = base_path
    import pytorch_lightning
    import torch

    events.write("stack", torch=torch.__version__, lightning=pytorch_lightning.__version__)
    lockstep = Lockstep()
    for source, cases in groupby(spec["cases"], key=lambda case: case["source"]):
        run_source(source, list(cases), spec, base_path, events, lockstep)
    events.write("done")
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever libraries would do at exit is not part of the proof, and may hang.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
