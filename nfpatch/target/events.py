"""The records that nfpatch and the processes that it runs exchange: one dataclass for each kind.

Both sides use this module, so it is Python 3.7. A specification is one JSON document, an `Entry` one line of a file.
`decode` accepts exactly the output of `encode`: a field that is missing, unknown or of another type raises WrongRecord.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Dict, Optional, Tuple, Type, TypeVar

T = TypeVar("T")


class WrongRecord(ValueError):
    """Data that this version of nfpatch does not write."""


def encode(record: Any) -> Dict[str, Any]:
    """The record as JSON data."""
    return asdict(record)


def decode(kind: Type[T], data: Any) -> T:
    """The record of this dataclass in JSON data. Raises WrongRecord if it is none."""
    if not isinstance(data, dict):
        raise WrongRecord(f"{kind.__name__}: {data!r} is no object")
    types = types_of(kind)  # type: ignore[arg-type]
    for problem, names in (("lacks", set(types) - set(data)), ("does not know", set(data) - set(types))):
        if names:
            raise WrongRecord(f"{kind.__name__} {problem} {', '.join(sorted(names))}")
    return kind(**{name: _value(types[name], value, f"{kind.__name__}.{name}") for name, value in data.items()})


@functools.lru_cache(maxsize=None)
def types_of(kind: Type[Any]) -> Dict[str, Any]:
    """The types of the fields of a dataclass, by name."""
    hints = typing.get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _value(kind: Any, value: Any, where: str) -> Any:
    """The value of a field of this type. JSON has lists for tuples, and may have an integer for a float."""
    origin, inner = getattr(kind, "__origin__", None), getattr(kind, "__args__", ())
    if origin is typing.Union:
        return None if value is None else _value(inner[0], value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_value(inner[0], each, where) for each in value)
    if origin is dict and isinstance(value, dict):
        return {str(key): _value(inner[1], each, where) for key, each in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return decode(kind, value)
    if kind is Any:
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise WrongRecord(f"{where}: {value!r} is no {getattr(kind, '__name__', kind)}")


# The message of torch's reducer, and the one of Lightning 2 in place of it
UNUSED_PARAMETERS_MESSAGES = (
    "Expected to have finished reduction in the prior iteration",
    "parameters that were not used in producing the loss",
)

# Specifications: what nfpatch sends to the processes


@dataclass(frozen=True)
class CaseSpec:
    """One case for `train.py`.

    `stage` is "fit", or what a user's script does after it, one of `stages.STAGES`. `strategy` is "strict-ddp",
    "find-unused-ddp" or "single-process". `forecast` is "together" if all ranks predict, as in a user's script, "alone"
    if this process does, or None. `like` is the id of an earlier case from whose first weights this one starts, and
    with whose result its own is compared.
    """

    id: str
    model: str
    loss: str
    tree: str = ""
    patch: Optional[str] = None
    exogenous: Tuple[str, ...] = ()
    options: Dict[str, Any] = field(default_factory=dict)
    strategy: str = "strict-ddp"
    forecast: Optional[str] = None
    like: Optional[str] = None
    stage: str = "fit"


@dataclass(frozen=True)
class TrainSpec:
    """What `train.py` does: the cases of a launch; all cases of one tree follow each other.

    `trees` are folders to put first on sys.path, None for the installed neuralforecast. `launcher` starts the
    processes: "torchrun" is torch's; "script" is Lightning's, which starts this program again for each further process;
    "spawn" and "fork" start them for each fit; so does "spark". There are `devices` processes on each node,
    `world_size` on all nodes, and `reporting` of them run this program. `max_steps` is at least two, because DDP
    refuses unused parameters at the second step. A rank that has finished a case waits `patience` seconds for the
    others, and the process exits after `timeout` seconds. If the cases are `sharded`, each is trained by one rank, the
    first that takes it. `out` is the folder for events, logs and whatever else the processes write.
    """

    trees: Dict[str, Optional[str]]
    cases: Tuple[CaseSpec, ...]
    launcher: str
    accelerator: str
    devices: int
    world_size: int
    reporting: int
    max_steps: int
    sharded: bool
    patience: float
    timeout: float
    out: str

    @property
    def is_on_spark(self) -> bool:
        """Whether Spark starts the processes."""
        return self.launcher == "spark"


@dataclass(frozen=True)
class RehearsalSpec:
    """How a user's script is run. `launcher` is "script" or "torchrun".

    `max_steps` is the limit for the steps of a training, and `trials` that for the trials of a search; None is no
    limit. `out` is the folder for events and stacks. `patched` are the functions that patches change, as
    "neuralforecast/core.py:NeuralForecast.fit".
    """

    out: str
    devices: int
    launcher: str
    max_steps: Optional[int] = None
    trials: Optional[int] = None
    patched: Tuple[str, ...] = ()


# Events of every process


class Event:
    """What a process records. An event with a `number` is one of the call with this number."""


@dataclass(frozen=True)
class ProcessStarted(Event):
    """The process runs, as a rank.

    It is `within` another process of the same rank if that one started it, between two calls of neuralforecast.
    """

    within: bool = False


@dataclass(frozen=True)
class SourceImported(Event):
    """neuralforecast was imported from this file. `tree` is the name of the source in the specification, if any."""

    file: Optional[str]
    tree: str = ""


@dataclass(frozen=True)
class Step:
    """A line of the user's own code that was run, and what it read: names with values, and files."""

    file: str
    line: int
    function: str
    seen: Tuple[str, ...] = ()


@dataclass(frozen=True)
class ProcessEnded(Event):
    """The process exits by itself. A script ran `steps` since its last call, and did not catch `error`."""

    steps: Tuple[Step, ...] = ()
    error: str = ""


# Events of `train.py`


@dataclass(frozen=True)
class StackImported(Event):
    """torch and Lightning were imported. `gpus` is the number that torch sees, None for a run on the CPU."""

    gpus: Optional[int]


@dataclass(frozen=True)
class RanksAssembled(Event):
    """All ranks have started, and train with this backend: "gloo" or "nccl"."""

    backend: str


@dataclass(frozen=True)
class OwnLayerUnused:
    """A layer of a class in the user's code has unused parameters: its name there, the class and the line."""

    layer: str
    owner: str
    file: str
    line: int
    parameters: Tuple[str, ...]


@dataclass
class Training:
    """A training as observed on one rank so far; of a case, all trainings that are part of it.

    `bases` are the classes of neuralforecast that the model is derived from. `world_size` and `backend` are what
    torch.distributed reports: 1 and None without a process group. `find_unused` is DDP's `find_unused_parameters`, None
    for the default. `steps` are optimizer steps, `losses` those of every step, `validated` the validation losses, one
    per validation, or what early stopping monitors instead. `unused` are the trainable parameters without a gradient
    after the backward pass of any step, `unused_last` those of the last one, `unused_by_torch` the names in torch's own
    error, `own_layers` the unused layers of the user's classes. `parameters` is the size of all trainable parameters.
    `weights` is a SHA-256 over all parameters at the end of the training, `buffers` one over the buffers, such as
    running statistics. `batches` are SHA-256 of every batch of a multivariate model, which must have the same series on
    each rank. `points` is the number of points in time in the training data. `stopped_by` is the line of the user's own
    code that stopped the training, as "FILE:LINE", after `stopped_after` steps.
    """

    model: str = ""
    bases: Tuple[str, ...] = ()
    world_size: Optional[int] = None
    backend: Optional[str] = None
    find_unused: Optional[bool] = None
    steps: int = 0
    losses: Tuple[float, ...] = ()
    validated: Tuple[float, ...] = ()
    unused: Tuple[str, ...] = ()
    unused_last: Tuple[str, ...] = ()
    unused_by_torch: Optional[Tuple[str, ...]] = None
    own_layers: Tuple[OwnLayerUnused, ...] = ()
    stopped_by: str = ""
    stopped_after: Optional[int] = None
    parameters: Optional[int] = None
    weights: Optional[str] = None
    buffers: Optional[str] = None
    batches: Tuple[str, ...] = ()
    points: int = 0

    @property
    def has_finite_loss(self) -> bool:
        """Whether the loss was a finite number in every step."""
        return all(map(math.isfinite, self.losses))


# Events of the calls of a user's script, and of the cases of `train.py`, which count as calls. `number` counts the
# calls of a process, and `index` the trainings of a call.


@dataclass(frozen=True)
class OptionOverridden(Event):
    """An option of the script was overridden for the run, in words."""

    what: str


@dataclass(frozen=True)
class CallStarted(Event):
    """The script calls neuralforecast in this file and line; `search` is the stage that shows its search, if any.

    The name of a case is its stage, and its number is that in the specification.

    `options` are the arguments of the models and of the call, `data` those that are frames; each as text, by name.
    `steps` are the lines that were run since the last call.
    """

    number: int
    name: str
    file: str = ""
    line: int = 0
    models: Tuple[str, ...] = ()
    search: str = ""
    options: Dict[str, str] = field(default_factory=dict)
    data: Dict[str, str] = field(default_factory=dict)
    steps: Tuple[Step, ...] = ()


@dataclass(frozen=True)
class MethodReplaced(Event):
    """The script has replaced a function that a patch changes by its own, which is in this file and line."""

    function: str
    file: str
    line: int


@dataclass(frozen=True)
class OneDeviceOnly(Event):
    """The script trains on one device, and a rehearsal does too; `what` asks for that."""

    number: int
    what: str


@dataclass(frozen=True)
class TrainingObserved(Event):
    """What was observed of a training of a call so far."""

    number: int
    index: int
    training: Training


@dataclass(frozen=True)
class FitCompared(Event):
    """How the result of the fit of a case differs from that of its reference.

    `different` are the names of weights that are not bit-identical, `largest` is the largest difference, `removed` are
    the weights that only the reference has, `frozen` the parameters that only this fit does not train. `losses_equal`
    is about the losses of all steps.
    """

    number: int
    different: Tuple[str, ...]
    largest: float
    forecasts_equal: bool
    losses_equal: bool
    removed: Tuple[str, ...]
    frozen: Tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """A frame of forecasts: rows, columns, series, missing numbers, and the SHA-256 of its content."""

    rows: int
    columns: Tuple[str, ...]
    ids: Optional[int]
    nan: int
    digest: str

    @property
    def shape(self) -> Tuple[int, int]:
        """Series x horizon, and the outputs of the loss."""
        return self.rows, len(set(self.columns) - {"unique_id", "ds"})


@dataclass(frozen=True)
class ReferenceMade(Event):
    """The result of a call, or of the training `index` of it, in the single-process reference.

    That is the `validation` loss of a training; for a call, how its forecasts `differ`, as text; or the `error` that
    the reference raises. `needs_gpus` means that it was raised for the arguments of a machine with GPUs.
    """

    number: int
    index: Optional[int] = None
    validation: Optional[float] = None
    differ: Optional[str] = None
    error: Optional[str] = None
    needs_gpus: bool = False


@dataclass(frozen=True)
class CallReturned(Event):
    """A call returned these forecasts; with the digests of the models' weights and the choices of its searches."""

    number: int
    forecasts: Tuple[Frame, ...] = ()
    weights: Tuple[str, ...] = ()
    chosen: Tuple[str, ...] = ()


@dataclass(frozen=True)
class CallRaised(Event):
    """A call raised an error: its one-line message, the parameters that torch names, and the frames.

    It is `by_neuralforecast` if a `raise` or `assert` of neuralforecast raised it.
    """

    number: int
    message: str
    unused: Optional[Tuple[str, ...]] = None
    places: Tuple[str, ...] = ()
    by_neuralforecast: bool = False

    @property
    def is_refusal(self) -> bool:
        """Whether DDP refuses unused parameters."""
        return any(words in self.message for words in UNUSED_PARAMETERS_MESSAGES)


@dataclass(frozen=True)
class FileChanged(Event):
    """A file was "opened" for writing, "replaced" by another one, or "removed"; number -1 is outside of all calls.

    `writer` is the line that does it, as "FILE:LINE", if it is in the user's own code.
    """

    number: int
    path: str
    how: str
    writer: str = ""


KINDS = {kind.__name__: kind for kind in Event.__subclasses__()}


@dataclass(frozen=True)
class Entry:
    """An event with its rank, process and time (seconds since the epoch)."""

    rank: Optional[int]
    pid: int
    time: float
    event: Any

    def to_json(self) -> Dict[str, Any]:
        """One line of a file of events, as JSON data."""
        kind = type(self.event).__name__
        return {"rank": self.rank, "pid": self.pid, "time": self.time, "event": kind, "fields": encode(self.event)}

    @classmethod
    def from_json(cls, data: Any) -> Entry:
        """The entry in such a line. Raises WrongRecord if it is none."""
        try:
            kind, content = KINDS[data["event"]], data["fields"]
            rank, pid, when = data["rank"], data["pid"], data["time"]
        except (KeyError, TypeError) as error:
            raise WrongRecord(f"no event: {data!r}") from error
        return cls(_value(Optional[int], rank, "rank"), _value(int, pid, "pid"), float(when), decode(kind, content))


class EventFile:
    """The file into which a process writes its events, one per line, as those of `rank` by default."""

    def __init__(self, path: str, rank: Optional[int]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._rank = rank

    def write(self, event: Any, rank: Optional[int] = None) -> Entry:
        """Writes one event, safe from whatever happens to the process afterwards, and returns it as written."""
        entry = Entry(self._rank if rank is None else rank, os.getpid(), time.time(), event)
        self.append(entry)
        return entry

    def append(self, entry: Entry) -> None:
        """Writes an entry that another process has sent."""
        line = (json.dumps(entry.to_json()) + "\n").encode()
        while line:  # a disk that fills up takes the first part of a line before it fails
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)
