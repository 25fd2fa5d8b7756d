"""Trains the cases of a proof; one process of a launch by `python -m torch.distributed.run worker.py SPEC`.

A launch may span several machines, called nodes. Each has a SPEC of its own, and its own folder of reports, in which
the processes of the other nodes are told of too, as far as they have finished cases.

This script runs in the interpreter whose neuralforecast is meant, so it is valid Python 3.7 and imports nothing of
nfpatch. It reports facts and judges nothing. SPEC is a JSON file:

    trees         {source: folder to put first on sys.path, or null for neuralforecast as it is found}
    cases         [{id, source, model, loss, exogenous, options, strategy, forecast, like}]; all cases of one source
                  follow each other. `strategy` is "strict-ddp", "find-unused-ddp" or "single-process"; `forecast` tells
                  whether the trained model makes forecasts; `like` names an earlier case from whose first weights this
                  one starts, and with which its end is compared, or is null
    accelerator   "cpu" or "gpu"
    world_size    how many processes there must be on all nodes together
    max_steps     training steps of each fit; at least two, as DDP complains at the second
    timeout       seconds after which the process ends itself, should nobody else have ended it
    dealt         whether each case is trained by one of the ranks only, the first that takes it
    out           folder for rank-N.jsonl (events, below) and rank-N.log (standard output and error)

Each event is one JSON object on one line, written at once, so that a killed process leaves its evidence:

    {event: "hello", pid, python}              first of all
    {event: "stack", torch, lightning, gpus}   the heavy imports are done; how many GPUs torch has, null for "cpu"
    {event: "assembled", backend}              all ranks are there, and train with this backend, "gloo" or "nccl"
    {event: "imported", source, file}          neuralforecast was imported from `file`
    {event: "started", case}
    {event: "finished", case, outcome, detail, seconds, ...}   with the fields of `no_evidence` beside it
    {event: "done"}                            last of all

Of a rank on another node there are "finished" and "done" only.
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
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
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

# How long, in seconds, a rank waits for the others where all meet before it gives the launch up.
MEETING_TIMEOUT = 30
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
# By the kind of features: the option that takes them, the column, and the column that is added where there are
# "categorical" features as well.
EXOGENOUS_COLUMNS = {
    "static": ("stat_exog_list", "airline1", "airline2"),
    "historic": ("hist_exog_list", "y_[lag12]", "quarter"),
    "future": ("futr_exog_list", "trend", "month"),
}
CARDINALITIES = {"airline2": 2, "quarter": 4, "month": 12}
# Releases before this one put a TQDMProgressBar into the trainer, which contradicts `enable_progress_bar=False`.
FIRST_RELEASE_WITHOUT_PROGRESS_BAR = (1, 7)

# What the callback saw of the running fit. A module-level dictionary, because `NeuralForecast.fit` deep-copies
# models together with their callbacks.
OBSERVED: dict[str, Any] = {}
# By the id of the case: {"first", "last": weights by name, "losses": of each step, "forecasts": array} of the fits that
# went through. Plain tensors, as the classes of one source tree mean nothing to another.
FITTED: dict[str, dict[str, Any]] = {}


def no_evidence() -> dict[str, Any]:
    """The evidence before a fit has begun."""
    return {
        "world_size": None,  # as torch.distributed reports it during training; 1 where there is no process group
        "backend": None,  # likewise; None where there is no process group
        "steps": 0,  # optimizer steps taken
        "losses": [],  # of every step
        "finite_loss": True,  # likewise
        "unused": [],  # trainable parameters without a gradient after the backward pass of any step
        "unused_last": [],  # the same, of the last backward pass only
        "unused_by_torch": None,  # the names in torch's own complaint
        "parameters": None,  # how many numbers the trainable parameters are
        "digest": None,  # SHA-256 over all parameters after the fit
        "forecast_shape": None,  # [rows, columns] of what NeuralForecast.predict gave
        "due_shape": None,  # what they must be: series x horizon, outputs of the loss
        "finite_forecasts": None,  # whether every forecast is a finite number
        "refused": False,  # whether it was neuralforecast itself that raised an exception, in its own words
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
            OBSERVED["losses"] = [*OBSERVED["losses"], loss.item()]
            OBSERVED["finite_loss"] = all(map(math.isfinite, OBSERVED["losses"]))

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


def trainer_arguments(case: dict[str, Any], spec: dict[str, Any], backend: str, release: str) -> dict[str, Any]:
    """Arguments for Lightning's trainer: the strategy of the case, observed, and nothing written to disk."""
    if case["strategy"] == "single-process":
        placement = arguments_alone(spec)
    else:
        placement = arguments_together(spec, backend, case["strategy"] == "find-unused-ddp")
    arguments = {
        **placement,
        "callbacks": [recorder()],
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    if tuple(int(number) for number in re.findall(r"\d+", release)[:2]) >= FIRST_RELEASE_WITHOUT_PROGRESS_BAR:
        arguments["enable_progress_bar"] = False
    return arguments


def arguments_together(spec: dict[str, Any], backend: str, find_unused_parameters: bool) -> dict[str, Any]:
    """What makes Lightning train by DDP over the processes of this launch.

    To Lightning each process is a node with one device. It would not let two processes of a node share a GPU: it
    refuses a list that names one twice, and takes the local rank for an index into the list.

    The strategy goes by a name: a strategy object serves one trainer, and some releases hand it to several.
    """
    from pytorch_lightning.plugins.environments import TorchElasticEnvironment
    from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

    class NodeOfOneDevice(TorchElasticEnvironment):
        def local_rank(self) -> int:
            return 0

    StrategyRegistry.register(
        STRATEGY_NAME,
        DDPStrategy,
        override=True,
        # Asked for by name, because Lightning 1 looks for unused parameters by default and so hides the bug.
        find_unused_parameters=find_unused_parameters,
        process_group_backend=backend,
    )
    return {
        "accelerator": spec["accelerator"],
        "devices": own_device(spec),
        "num_nodes": int(os.environ["WORLD_SIZE"]),
        "strategy": STRATEGY_NAME,
        # Else Lightning prefers a surrounding SLURM job's idea of the ranks.
        "plugins": [NodeOfOneDevice()],
    }


def arguments_alone(spec: dict[str, Any]) -> dict[str, Any]:
    """What makes Lightning work in this process alone, whatever launched it."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    return {
        "accelerator": spec["accelerator"],
        "devices": own_device(spec),
        "plugins": [LightningEnvironment()],
    }


def own_device(spec: dict[str, Any]) -> int | list[int]:
    """The one device of this process, as Lightning's trainer wants to be told."""
    import torch

    return 1 if spec["accelerator"] == "cpu" else [gpu_of(int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())]


def gpu_of(local_rank: int, gpus: int) -> int:
    """The GPU of a process: one of its own as long as there are enough, then shared in turn."""
    return local_rank % gpus


def backend_for(accelerator: str, ranks: list[dict[str, Any]]) -> str:
    """The backend of the process group, by what the ranks tell about themselves, as `assembled` returns it.

    nccl refuses two processes on one GPU, gloo does not mind; and one backend has to serve all nodes.
    """
    has_gpu_for_each = accelerator == "gpu" and all(rank["processes"] <= rank["gpus"] for rank in ranks)
    return "nccl" if has_gpu_for_each else "gloo"


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
    if case["model"] == "HINT":
        return reconciled_model_of(case, max_steps, trainer)
    arguments = dict(SMALL_SIZES, loss=loss_of(case), **case_arguments(case, max_steps), **trainer())
    if "n_series" in inspect.signature(model_class.__init__).parameters:
        arguments.update(multivariate_arguments())
    if case["model"] == "TimeLLM":
        arguments.update(language_model_arguments())
    return model_class(**arguments)


def reconciled_model_of(case: dict[str, Any], max_steps: int, trainer: Callable[[], dict[str, Any]]) -> Any:
    """HINT around a model; it makes the forecasts of a total and its two parts coherent."""
    import numpy

    options = dict(case["options"])
    wrapped = dict(options.pop("model"))
    model = model_of(dict(case, model=wrapped.pop("name"), options=wrapped), max_steps, trainer)
    summing = numpy.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=numpy.float32)
    return importlib.import_module("neuralforecast.models").HINT(h=SMALL_SIZES["h"], S=summing, model=model, **options)


def language_model_arguments() -> dict[str, Any]:
    """A language model for TimeLLM that knows a few letters, made from a configuration; nothing is downloaded.

    Releases from 1.7.5 on take the folder to load it from, earlier ones the model itself.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast
    except ImportError:
        return {}  # TimeLLM says itself what it misses

    letters = {word: number for number, word in enumerate(["<|endoftext|>", *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    config = GPT2Config(vocab_size=len(letters), n_positions=4096, n_embd=16, n_layer=1, n_head=2)
    llm = GPT2Model(config)
    module = importlib.import_module("neuralforecast.models.timellm")
    if not hasattr(module, "AutoModel"):
        return {"llm": llm, "llm_config": config, "llm_tokenizer": fast}
    from safetensors.torch import save_file

    folder = tempfile.mkdtemp()
    config.save_pretrained(folder)
    fast.save_pretrained(folder)
    # `save_pretrained` of a model writes on rank 0 only
    save_file(llm.state_dict(), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    return {"llm": folder}


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
    chosen = [EXOGENOUS_COLUMNS[kind] for kind in case["exogenous"] if kind != "categorical"]
    arguments: dict[str, Any] = {option: [column] for option, column, _ in chosen}
    if "categorical" in case["exogenous"]:
        arguments = {option: [column, embedded] for option, column, embedded in chosen}
        names = [embedded for _, _, embedded in chosen]
        arguments.update(cat_exog_list=names, categorical_cardinalities={name: CARDINALITIES[name] for name in names})
    return dict(arguments, max_steps=max_steps, **case["options"])


def trained_model_of(forecaster: Any) -> Any:
    """The model that was trained: of a search, the one that it came to. 1.6.0 keeps the untrained ones as `models`."""
    model = getattr(forecaster, "models_fitted", forecaster.models)[0]
    is_wrapper = type(model).__mro__[1].__name__ == "BaseAuto" or type(model).__name__ == "HINT"
    return model.model if is_wrapper else model


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
        "losses_equal": fitted["losses"] == reference["losses"],
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


def fit(case: dict[str, Any], spec: dict[str, Any], backend: str, package: Any) -> None:
    """Trains one case, forecasts with it, and leaves the evidence in `OBSERVED`; raises whatever goes wrong.

    The data are the air passengers panel of neuralforecast, two series, less the horizon at the end. Lightning deals
    them out to the ranks, which therefore have something to agree on.
    """
    import pandas

    seed_everything()
    model = model_of(case, spec["max_steps"], partial(trainer_arguments, case, spec, backend, package.__version__))
    if case["like"] is not None:
        if case["like"] not in FITTED:
            raise RuntimeError("nothing to compare with: {} did not train".format(case["like"]))
        start_from(model, FITTED[case["like"]]["first"])
    first = weights_of(model) if case["forecast"] else None
    utils = importlib.import_module("neuralforecast.utils")
    # neuralforecast 1.0.0 knows no such argument.
    static = {"static_df": utils.AirPassengersStatic} if "static" in case["exogenous"] else {}
    by_series = panel_of(case, utils).groupby("unique_id")
    # pandas 3 has dropped the alias "M".
    freq = "M" if int(pandas.__version__.split(".")[0]) < 3 else "ME"
    forecaster = package.NeuralForecast(models=[model], freq=freq)
    seed_everything()
    forecaster.fit(df=by_series.head(-model.h).reset_index(drop=True), **static)
    fitted = trained_model_of(forecaster)
    OBSERVED["digest"] = digest_of(fitted)
    if not case["forecast"]:
        return
    future = {"futr_df": by_series.tail(model.h).reset_index(drop=True)} if "future" in case["exogenous"] else {}
    forecasts = forecasts_of(forecaster, spec, future)
    OBSERVED["forecast_shape"] = list(forecasts.shape)
    OBSERVED["due_shape"] = [model.h * by_series.ngroups, len(fitted.loss.output_names)]
    OBSERVED["finite_forecasts"] = all(map(math.isfinite, forecasts.flat))
    losses = OBSERVED["losses"]
    FITTED[case["id"]] = {"first": first, "last": weights_of(fitted), "losses": losses, "forecasts": forecasts}
    if case["like"] is not None:
        OBSERVED["comparison"] = compared(FITTED[case["id"]], FITTED[case["like"]])


def panel_of(case: dict[str, Any], utils: Any) -> Any:
    """The data: the air passengers panel, with categorical columns where they are asked for, and its total for HINT."""
    import pandas

    panel = utils.AirPassengersPanel
    if "categorical" in case["exogenous"]:
        panel = panel.assign(month=panel["ds"].dt.month - 1, quarter=panel["ds"].dt.quarter - 1)
    if case["model"] == "HINT":
        total = panel.groupby("ds", as_index=False)["y"].sum().assign(unique_id="Airlines")
        panel = pandas.concat([total, panel[["unique_id", "ds", "y"]]], ignore_index=True)
    return panel


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
        OBSERVED["refused"] = bool(frames) and is_refusal(frames[-1]) and not isinstance(error, ImportError)
        places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-LAST_FRAMES:]]
        return "error", "\n".join([message[:LONGEST_MESSAGE], *places])
    return "pass", ""


def is_refusal(frame: traceback.FrameSummary) -> bool:
    """Whether an exception was raised here by a statement of neuralforecast that is there to raise it."""
    package = sys.modules.get("neuralforecast")
    folder = os.path.dirname(getattr(package, "__file__", None) or "?")
    statement = (frame.line or "").split(" ", 1)[0]
    return frame.filename.startswith(folder + os.sep) and statement in ("raise", "assert")


def run_case(case: dict[str, Any], action: Callable[[], None], events: Events) -> dict[str, Any]:
    """Runs the action of one case between its two events, and returns what the second says."""
    print_stack_when_asked()
    events.write("started", case=case["id"])
    OBSERVED.clear()
    OBSERVED.update(no_evidence())
    begin = time.monotonic()
    outcome, detail = outcome_of(action)
    seconds = time.monotonic() - begin
    finished = dict(OBSERVED, case=case["id"], outcome=outcome, detail=detail, seconds=seconds)
    events.write("finished", **finished)
    return finished


class World:
    """All ranks of the launch, on all nodes, as they meet in the store in which torch's process groups meet too.

    They leave each case together: a rank that failed alone must not go on to the next one while another still waits
    for it in a collective of this one, as their messages would mix.
    """

    def __init__(self, patience: float) -> None:
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        store, self.rank, self.size = next(rendezvous("env://", timeout=datetime.timedelta(seconds=patience)))
        self._store = distributed.PrefixStore("nfpatch", store)
        self._meetings = 0

    def gather(self, value: Any, patience: float = MEETING_TIMEOUT) -> list[Any]:
        """What each rank has brought along, by rank, as soon as all have come.

        Raises RuntimeError that names a rank which does not come within `patience` seconds.
        """
        self._meetings += 1
        self._store.set(self._key(self.rank), json.dumps(value))
        return [json.loads(self._brought_by(rank, patience)) for rank in range(self.size)]

    def leave(self) -> None:
        """To be called last of all. Some releases of torch keep the store in rank 0, which therefore waits for all."""
        self._meetings += 1
        self._store.set(self._key(self.rank), "")
        for rank in range(self.size if self.rank == 0 else 0):
            self._brought_by(rank, MEETING_TIMEOUT)

    def _key(self, rank: int) -> str:
        return f"{self._meetings}/{rank}"

    def _brought_by(self, rank: int, patience: float) -> bytes:
        try:
            self._store.wait([self._key(rank)], datetime.timedelta(seconds=patience))
            brought: bytes = self._store.get(self._key(rank))
        except RuntimeError as error:
            raise RuntimeError(f"rank {rank} has ended, or was not heard of for {patience:g} s") from error
        return brought


def assembled(world: World, spec: dict[str, Any], gpus: int | None) -> list[dict[str, Any]]:
    """What each rank tells about itself, once all are there and have come for the same proof."""
    own = {
        "node": os.environ["GROUP_RANK"],
        "processes": int(os.environ["LOCAL_WORLD_SIZE"]),
        "gpus": gpus,
        "proof": [spec["world_size"], spec["accelerator"], spec["cases"]],
    }
    ranks = world.gather(own, spec["timeout"])
    for number, other in enumerate(ranks):
        if other["proof"] != own["proof"]:
            raise RuntimeError(f"rank {number} came for another proof: run the same command on every node")
    if world.size != spec["world_size"]:
        raise RuntimeError("{} ranks came, and not {}".format(world.size, spec["world_size"]))
    return ranks


def run_source(
    source: str, cases: list[dict[str, Any]], spec: dict[str, Any], backend: str, base_path: list[str], events: Events
) -> Iterator[dict[str, Any]]:
    """Imports one source of neuralforecast and trains its cases, giving what came of each.

    A failed import is the outcome of all of them.
    """
    try:
        package = import_neuralforecast(spec["trees"][source], base_path)
    except Exception as error:
        failure = error

        def fail() -> NoReturn:
            raise failure

        for case in cases:
            yield run_case(case, fail, events)
        return
    events.write("imported", source=source, file=getattr(package, "__file__", None))
    for case in cases:
        if not spec["dealt"] or is_taken(case, spec):
            yield run_case(case, partial(fit, case, spec, backend, package), events)


def is_taken(case: dict[str, Any], spec: dict[str, Any]) -> bool:
    """Whether this rank takes the case: the first that asks does."""
    mark = os.path.join(spec["out"], f"taken-{spec['cases'].index(case)}")
    try:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


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

    gpus = None
    if spec["accelerator"] == "gpu":
        gpus = torch.cuda.device_count()
        # Else the last bits of a sum on a GPU differ from fit to fit, and nothing can be compared.
        torch.use_deterministic_algorithms(True, warn_only=True)
    events.write("stack", torch=torch.__version__, lightning=pytorch_lightning.__version__, gpus=gpus)
    world = World(spec["timeout"])
    ranks = assembled(world, spec, gpus)
    backend = backend_for(spec["accelerator"], ranks)
    events.write("assembled", backend=backend)
    elsewhere = {}
    if os.environ["LOCAL_RANK"] == "0":
        elsewhere = {
            number: Events(os.path.join(spec["out"], f"rank-{number}.jsonl"))
            for number, rank in enumerate(ranks)
            if rank["node"] != os.environ["GROUP_RANK"]
        }
    for source, cases in groupby(spec["cases"], key=lambda case: case["source"]):
        for finished in run_source(source, list(cases), spec, backend, base_path, events):
            finished_by = [] if spec["dealt"] else world.gather(finished)
            for number, events_elsewhere in elsewhere.items():
                events_elsewhere.write("finished", **finished_by[number])
    for events_elsewhere in elsewhere.values():
        events_elsewhere.write("done")
    events.write("done")
    if not spec["dealt"]:
        world.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever libraries would do at exit is not part of the proof, and may hang.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
