"""Makes saved models fit the installed neuralforecast: `python worker.py`, spoken to over standard input and output.

This script runs in the interpreter whose neuralforecast is meant, so it is valid Python 3.7 and imports nothing of
nfpatch. Each line, either way, is one JSON object. The first that comes in says what there is to do:

    files    [{path, claimed, suggested}]: a model file, the class that its folder or the user says it holds, and those
             that its name stands for; null and empty where nothing does
    dead     {class: patterns}: the names of the parameters, as `fnmatch` patterns, that patches take away
    trees    {installed, healed}: folders to put first on sys.path; null for neuralforecast as it is found, and for no
             healed source. The healed source is the installed one with all the patches that it still lacks
    trust    whether a pickle may run the code that it names

What goes out, `file` being the number of a file:

    {event: "imported", file} or {event: "not-imported", detail}
    {event: "judged", file, state, model, dropped, added, detail, cause}
             `state` is "already-fits", "misfit", which dropping and adding these keys mends, or "refused": `detail`
             says why, in words that follow the name of the file, and `cause` is "content", "code" for a pickle that
             wants to run some, or "environment"
    {event: "all-judged"}

Any number of {write: [[file, path], ...]} may come in then: files to be written anew, and the paths of the new ones.
Each is answered with one of these a file, and `done`:

    {event: "written", file} or {event: "failed", file, detail, errno}
    {event: "done"}
"""

# mypy: disable-error-code="import-not-found,import-untyped,misc"
# torch, Lightning, numpy and neuralforecast are there in the target interpreter only.

from __future__ import annotations

import collections
import copy
import ctypes
import errno
import fnmatch
import functools
import importlib
import inspect
import json
import os
import pickle
import re
import signal
import struct
import sys
import threading
import time
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Callable, NoReturn

LOSSES = "neuralforecast.losses.pytorch"
SCALERS = "neuralforecast.common._scalers"
# What Lightning's hyper-parameters are, wherever a release of Lightning keeps it.
ATTRIBUTE_DICTS = (
    "lightning_fabric.utilities.data",
    "lightning.fabric.utilities.data",
    "pytorch_lightning.utilities.parsing",
)
ACTIVATIONS = ("elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "softplus", "tanh")  # of torch
# The first torch whose restricted unpickler takes an object together with the name that stands for it.
FIRST_TORCH_THAT_RESTRICTS = (2, 6)
# Building this model downloads a language model whose name is in the file.
NOT_BUILT = "TimeLLM"
# A model that saves not itself but the model that it wraps.
WRAPPER = "hint"

ZIP = b"PK\x03\x04"
GIT_LFS = b"version https://git-lfs.github.com/spec/"
LARGEST_HEADER_BYTES = 100000000  # of a safetensors file, as the format itself limits it
# safetensors' names of what a hyper-parameter is that neuralforecast keeps among the tensors.
HYPER_PARAMETER_PREFIX = "__hparams__."
MOST_NAMES = 24  # of keys in a message
LONGEST_REASON = 400


class Refusal(Exception):
    """Why a file is left alone, in words that follow its name."""

    cause = "content"


class WantsToRunCode(Refusal):
    """A pickle names something that nfpatch does not let it have."""

    cause = "code"


class Built:
    """What a fresh instance is made of, in its own order: the state's tensors by key, the parameters by name."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.state = model.state_dict()
        self.parameters = [name for name, _ in model.named_parameters()]


def built_like(saved: Any, model_class: type) -> Built:
    """A fresh instance of a class with the hyper-parameters of a file."""
    try:
        # a constructor may keep, and change, what it is given
        return Built(model_class(**copy.deepcopy(dict(saved.hyper_parameters))))
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(
            f"holds hyper-parameters from which neuralforecast {release()} builds no {model_class.__name__}: "
            f"{in_short(error)}"
        ) from error


class TorchFile:
    """A file written by `torch.save`: neuralforecast's own format of 1.7.1 - 3.2, or a Lightning checkpoint."""

    def __init__(self, path: str, trust: bool) -> None:
        self.content = unpickled(path, trust)
        wanted = ("hyper_parameters", "state_dict")
        if not isinstance(self.content, dict) or not all(isinstance(self.content.get(key), dict) for key in wanted):
            raise Refusal(
                "is a file of torch, but no model of neuralforecast: it lacks `hyper_parameters` or `state_dict`"
            )
        self.model_class = None
        self.state = self.content["state_dict"]
        self.optimizers = self.content.get("optimizer_states") or []

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return self.content["hyper_parameters"]  # type: ignore[no-any-return]

    def write(self, path: str, state: Any, optimizers: list[dict[str, Any]]) -> None:
        """Writes this file with another state and other optimizers, and all else as it is."""
        import torch

        content = dict(self.content, state_dict=state)
        if self.optimizers:
            content["optimizer_states"] = optimizers
        with open(path, "xb") as file:
            sink = Sink(file)
            try:
                torch.save(content, sink)
            except Exception as error:
                raise (sink.error or error) from error  # torch makes a RuntimeError of a full disk
            file.flush()
            os.fsync(file.fileno())


class SafetensorsFile:
    """A file of neuralforecast 3.3.0 or later: tensors, and the hyper-parameters as tagged JSON in the header."""

    def __init__(self, path: str, trust: bool) -> None:
        try:
            from neuralforecast import _serialization
        except ImportError as error:
            raise Refusal(
                f"is in the format of neuralforecast 3.3.0 (safetensors), which the installed {release()} cannot read"
            ) from error
        self._format = _serialization
        with open(path, "rb") as file:
            data = file.read()
        try:
            tensors, self.metadata = _serialization.load_tensors(data)
            self.model_class = self.metadata["model_class"]
            self._encoded = json.loads(self.metadata["hyper_parameters"])
            self._shared = json.loads(self.metadata.get("shared", "{}"))
        except Exception as error:
            raise Refusal("is damaged, or no model that neuralforecast saved: " + in_short(error)) from error
        self.kept_apart = {key: tensor for key, tensor in tensors.items() if key.startswith(HYPER_PARAMETER_PREFIX)}
        self.state = {key: tensor for key, tensor in tensors.items() if key not in self.kept_apart}
        for name, duplicates in self._shared.items():
            self.state.update({duplicate: self.state[name] for duplicate in duplicates if name in self.state})
        self.optimizers: list[dict[str, Any]] = []

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """The arguments of the constructor, made anew."""
        try:
            return self._format.decode_mapping(self._encoded, self.kept_apart)  # type: ignore[no-any-return]
        except Exception as error:
            raise Refusal("holds hyper-parameters that cannot be read: " + in_short(error)) from error

    def write(self, path: str, state: Any, optimizers: list[dict[str, Any]]) -> None:
        """Writes this file with another state, and all else as it is."""
        from safetensors.torch import save

        duplicates = {duplicate for names in self._shared.values() for duplicate in names}
        lost = [key for key in (*self._shared, *duplicates) if key not in state]
        if lost:
            raise Refusal("shares the weights of layers of which some are to go: " + named(lost))
        tensors = {key: tensor.contiguous() for key, tensor in state.items() if key not in duplicates}
        with open(path, "xb") as file:
            file.write(save(dict(tensors, **self.kept_apart), metadata=self.metadata))
            file.flush()
            os.fsync(file.fileno())


class Sink:
    """A file for torch to write into that remembers why it could not be written."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: Exception | None = None

    def write(self, data: Any) -> int:
        """Writes on."""
        try:
            return self._file.write(data)  # type: ignore[no-any-return]
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Asked for by torch."""
        self._file.flush()


def saved_in(path: str, trust: bool) -> Any:
    """The model that a file holds. The format is told by the first bytes, as neuralforecast itself does."""
    with open(path, "rb") as file:
        head = file.read(len(GIT_LFS))
        size = os.fstat(file.fileno()).st_size
    if head.startswith(GIT_LFS):
        raise Refusal("is a pointer of Git LFS and not the model itself; `git lfs pull` fetches it")
    header = struct.unpack("<Q", head[:8])[0] if len(head) >= 9 else 0
    # first, as the length of a header may begin like a pickle
    if 0 < header <= LARGEST_HEADER_BYTES and head[8:9] == b"{":
        if 8 + header > size:
            raise Refusal("is truncated: its header alone is longer than the file")
        return SafetensorsFile(path, trust)
    if head.startswith(ZIP) and not zipfile.is_zipfile(path):
        raise Refusal("is truncated: it is an archive without an end")
    if head.startswith((ZIP, b"\x80")):
        return TorchFile(path, trust)
    raise Refusal("is no model file: it begins neither as torch's files do nor as those of safetensors")


def unpickled(path: str, trust: bool) -> Any:
    """What `torch.save` wrote, its tensors on the CPU; without trust, by an unpickler that runs no code of the file."""
    import torch

    try:
        if trust:
            arguments = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}
            return torch.load(path, map_location="cpu", **arguments)
        allowed = allowed_globals()
        if numbers_of(torch.__version__) >= FIRST_TORCH_THAT_RESTRICTS:
            return unpickled_by_torch(path, allowed)
        return torch.load(path, map_location="cpu", pickle_module=restricted_pickle(allowed))
    except pickle.UnpicklingError as error:
        raise refused_pickle(error) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a place beyond the end of the file gives
            raise
        raise Refusal("is damaged or truncated, or no file of torch: " + in_short(error)) from error


def unpickled_by_torch(path: str, allowed: dict[str, Any]) -> Any:
    """What torch's restricted unpickler reads. It fills no dictionaries but three kinds, so others begin as one."""
    import torch

    attribute_dict = dictionary_of_lightning()
    begun: list[Any] = []

    class Begun:
        """Makes what becomes an AttributeDict in the end."""

        def __new__(cls) -> Any:
            begun.append(collections.Counter())
            return begun[-1]

    stand_ins = {name: Begun if value is attribute_dict else value for name, value in allowed.items()}
    with torch.serialization.safe_globals([(value, name) for name, value in stand_ins.items()]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    for each in begun:
        each.__class__ = attribute_dict
    return content


def restricted_pickle(allowed: dict[str, Any]) -> Any:
    """A stand-in for the module `pickle`, for releases of torch that cannot restrict their own."""
    import torch

    own = [collections.OrderedDict, set, torch.Size, torch.device, torch.Tensor, torch.nn.Parameter]
    rebuilding = [value for name, value in vars(torch._utils).items() if re.match("_rebuild_(tensor|parameter)", name)]
    types = {"torch." + name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    names = {value.__module__ + "." + value.__name__: value for value in own + rebuilding}
    known = dict(allowed, **names, **types)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = known.get(module.replace("__builtin__", "builtins") + "." + name)
            if found is None:
                raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
            return found

    class Pickle:
        pass

    Pickle.Unpickler = Unpickler  # type: ignore[attr-defined]
    Pickle.load = staticmethod(lambda file, **options: Unpickler(file, **options).load())  # type: ignore[attr-defined]
    return Pickle


def refused_pickle(error: Exception) -> Refusal:
    """What to say when an unpickler refuses a file, after the name that it gives."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is not None:
        module_name, _, name = found.group(1).rpartition(".")
        if module_name.startswith("neuralforecast.") and not hasattr(sys.modules.get(module_name), name):
            return Refusal(f"holds `{found.group(1)}`, which neuralforecast {release()} does not have")
    elif "reduce" not in str(error) and "new object" not in str(error):
        # torch says a lot before that
        words = str(error).rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0]
        return Refusal("is damaged, or no file that torch.save wrote: " + words)
    what = "a function that it makes itself" if found is None else f"`{found.group(1)}`"
    return WantsToRunCode(f"wants to use {what}, which nfpatch does not know to be harmless")


def allowed_globals() -> dict[str, Any]:
    """What a pickle may name, by the name that it uses: classes and functions of which no harm can come.

    The losses with their helpers, which only calculate; modules, distributions, optimizers and schedulers; what numpy
    needs for numbers; Lightning's dictionary and callbacks. A callback holds the file system of this machine
    and, once a fit has begun, methods of the model, and so the whole model.
    """
    import numpy
    import pytorch_lightning
    import torch
    from fsspec.implementations.local import LocalFileSystem

    importlib.import_module("neuralforecast.models")
    own = [module for name, module in sys.modules.items() if name.startswith("neuralforecast.")]
    classes = [
        *classes_of(torch.distributions, torch.distributions.Distribution),
        *classes_of(torch.optim, torch.optim.Optimizer),
        *classes_of(torch.optim.lr_scheduler, object),
        *classes_of(torch.nn, torch.nn.Module),
        *(each for module in own for each in classes_of(module, torch.nn.Module) if each.__name__ != NOT_BUILT),
        *(each for each in vars(getattr(numpy, "dtypes", numpy.dtype)).values() if inspect.isclass(each)),
        *classes_of(pytorch_lightning.callbacks, pytorch_lightning.Callback),
        *(functools.partial, numpy.ndarray, numpy.dtype, LocalFileSystem),
    ]
    helpers = [
        each
        for module in (LOSSES, SCALERS)
        for each in vars(importlib.import_module(module)).values()
        if getattr(each, "__module__", None) == module and callable(each)
    ]
    activations = [getattr(torch.nn.functional, name) for name in ACTIVATIONS]
    allowed = {each.__module__ + "." + each.__name__: each for each in [*classes, *helpers, *activations]}
    multiarray = importlib.import_module("numpy.core.multiarray")
    for name in ("scalar", "_reconstruct"):
        for module_name in ("numpy.core.multiarray", "numpy._core.multiarray"):
            allowed[module_name + "." + name] = getattr(multiarray, name)
    allowed["_codecs.encode"] = encoded_as_latin1
    allowed["builtins.getattr"] = harmless_method
    allowed["fsspec.spec.make_instance"] = local_file_system
    attribute_dict = dictionary_of_lightning()
    allowed.update({module_name + ".AttributeDict": attribute_dict for module_name in ATTRIBUTE_DICTS})
    return allowed


def classes_of(module: Any, base: type) -> list[type]:
    """The classes that a module offers as its own."""
    found = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)]
    return [value for value in found if value.__module__.startswith(module.__name__)]


def encoded_as_latin1(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, for what protocol 2 uses it for: bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError("GLOBAL _codecs.encode is not allowed for " + encoding)
    return text.encode("latin1")


def harmless_method(owner: Any, name: str) -> Any:
    """`getattr`, for what it is used for: a loss that keeps a method of its own (3.0), a callback one of the model."""
    import pytorch_lightning

    method = inspect.getattr_static(type(owner), name, None)
    of_losses = type(owner).__module__ == LOSSES and getattr(method, "__module__", None) == LOSSES
    of_model = isinstance(owner, pytorch_lightning.LightningModule) and name in ("log", "log_dict")
    if not (of_losses or of_model) or not inspect.isfunction(method) or name.startswith("__"):
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr is not allowed for {type(owner)}.{name}")
    return getattr(owner, name)


def local_file_system(kind: Any, arguments: Any, options: Any) -> Any:
    """`fsspec.spec.make_instance`, for the file system in a ModelCheckpoint: that of this machine, and no other."""
    from fsspec.implementations.local import LocalFileSystem

    if kind is not LocalFileSystem:
        raise pickle.UnpicklingError(f"GLOBAL fsspec.spec.make_instance is not allowed for {kind}")
    return LocalFileSystem(*arguments, **options)


def dictionary_of_lightning() -> type:
    """The class of hyper-parameters in the installed Lightning."""
    import pytorch_lightning

    return type(pytorch_lightning.LightningModule().hparams)


def judge(file: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Whether a file fits the source that is imported, and if not, which keys would have to go and to come."""
    saved = saved_in(file["path"], spec["trust"])
    model_class = class_of(file, saved)
    if model_class is not None and model_class.__name__ == NOT_BUILT:
        detail = "no patch touches it; it was not built, because that would download a language model"
        return {"state": "already-fits", "model": NOT_BUILT, "detail": detail}
    if model_class is None:
        model_class = class_that_fits(saved, spec["dead"])
    if model_class is None:
        return {"state": "already-fits", "detail": "several classes have exactly its keys"}
    built = built_like(saved, model_class)
    dropped, added = misfit(model_class, saved.state, built.state, spec["dead"])
    optimizers_for(built, saved, dropped)
    state = "misfit" if dropped or added else "already-fits"
    return {"state": state, "model": model_class.__name__, "dropped": dropped, "added": added}


def class_of(file: dict[str, Any], saved: Any) -> type | None:
    """The class of a saved model, as the file, its folder or the user tells it; None where nothing does."""
    claimed = file["claimed"] or saved.model_class
    if claimed and claimed.lower() != WRAPPER:
        model_class = model_class_named(claimed)
        if model_class is None:
            raise Refusal(f"holds a model of class {claimed}, which neuralforecast {release()} does not have")
        return model_class
    found = (model_class_named(name) for name in file["suggested"] if name.lower() != WRAPPER)
    return next((model_class for model_class in found if model_class is not None), None)


def class_that_fits(saved: Any, dead: dict[str, list[str]]) -> type | None:
    """The one class of this release whose instance has the keys of the file, but for dead ones.

    None where several have exactly those. Raises Refusal where there is none, or the class would decide what becomes of
    the file: a NBEATS without `out` has the keys of a NBEATSx.
    """
    fitting = {}
    for name, model_class in sorted(model_classes().items()):
        with suppress(Refusal):
            if name not in (NOT_BUILT.lower(), WRAPPER):
                fitting[model_class] = misfit(model_class, saved.state, built_like(saved, model_class).state, dead)
    if len(fitting) == 1:
        return next(iter(fitting))
    if fitting and not any(dropped or added for dropped, added in fitting.values()):
        return None
    fits = "several: " + named(sorted(each.__name__ for each in fitting)) if fitting else "none"
    raise Refusal(
        f"does not tell the class of its model; of those that neuralforecast {release()} has, it fits {fits}. "
        "Say which it is: `--model CLASS`"
    )


def misfit(model_class: type, saved: Any, built: Any, dead: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The keys to drop and the keys to add, all declared dead. Raises Refusal where anything else does not fit."""
    patterns = [pattern for each in model_class.__mro__ for pattern in dead.get(each.__name__, ())]

    def unexplained(keys: list[str]) -> list[str]:
        return [key for key in keys if not any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)]

    dropped = [key for key in saved if key not in built]
    added = [key for key in built if key not in saved]
    reshaped = [
        f"{key} (saved {shape_of(saved[key])}, built {shape_of(built[key])})"
        for key in built
        if key in saved and shape_of(saved[key]) != shape_of(built[key])
    ]
    wrong = {"unexpected": unexplained(dropped), "missing": unexplained(added), "of another shape": reshaped}
    if any(wrong.values()):
        raise Refusal(
            "does not fit {} of neuralforecast {}, and no patch explains why. Keys {}".format(
                model_class.__name__, release(), "; ".join(w + ": " + named(keys) for w, keys in wrong.items() if keys)
            )
        )
    return dropped, added


def check_dead(file: dict[str, Any], verdict: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """The verdict, if the keys to be added are dead indeed: gone in the healed source, which must be imported now."""
    model_class = model_class_named(verdict["model"])
    assert model_class is not None, "the healed source has the classes of the installed one"
    healed = built_like(saved_in(file["path"], spec["trust"]), model_class)
    alive = [key for key in verdict["added"] if key in healed.state]
    if alive:
        raise Refusal(missing_weights(verdict["model"], alive))
    return verdict


def missing_weights(model: str, keys: list[str]) -> str:
    """Why a file is refused that lacks what the model may need."""
    return f"lacks keys that are not known to be dead in {model} of neuralforecast {release()}: {named(keys)}"


def optimizers_for(built: Built, saved: Any, dropped: list[str]) -> list[dict[str, Any]]:
    """The states of the optimizers of a file, for the parameters that the instance has."""
    # a state lists parameters in the order in which the model does, buffers in between
    own = set(built.parameters) | set(dropped)
    parameters = [key for key in saved.state if key in own]
    return [moved_optimizer(each, parameters, built.parameters, saved.state) for each in saved.optimizers]


def moved_optimizer(optimizer: dict[str, Any], saved: list[str], built: list[str], state: Any) -> dict[str, Any]:
    """The state of an optimizer for other parameters.

    Its entries go by the position of a parameter among those of the model. `saved` and `built` are the names of the
    parameters, in order; `state` are the tensors of the model by name. A parameter that is new has no entry: optimizers
    make it when the first gradient comes, which a dead parameter never sees.
    """
    groups = optimizer["param_groups"]
    positions = [position for group in groups for position in group["params"]]
    if len(groups) != 1 or len(positions) != len(saved):
        raise Refusal(
            f"holds an optimizer with {len(positions)} parameters in {len(groups)} groups, "
            f"where the model has {len(saved)} in one"
        )
    names = dict(zip(positions, saved))
    entries = {names[position]: entry for position, entry in optimizer["state"].items()}
    for name, entry in entries.items():
        for value in entry.values() if isinstance(entry, dict) else ():
            if getattr(value, "numel", lambda: 1)() not in (1, state[name].numel()):
                raise Refusal("holds an optimizer whose entries are not those of single parameters")
    group = dict(groups[0], params=list(range(len(built))))
    if "param_names" in group:
        group["param_names"] = list(built)
    moved = {number: entries[name] for number, name in enumerate(built) if name in entries}
    return dict(optimizer, state=moved, param_groups=[group])


def mended_state(saved: Any, built: Any) -> Any:
    """The tensors of `built`, in its order; those that `saved` has, from there."""
    state: Any = type(built)() if isinstance(saved, collections.OrderedDict) else {}
    for key, tensor in built.items():
        state[key] = saved[key] if key in saved else tensor.detach().clone()
    if hasattr(saved, "_metadata"):  # torch's versions of the modules
        state._metadata = type(built._metadata)(
            (name, saved._metadata.get(name, version)) for name, version in built._metadata.items()
        )
    return state


def write_anew(file: dict[str, Any], verdict: dict[str, Any], path: str, trust: bool) -> None:
    """Writes a file that fits to a new path, reads it again and holds it against the old one.

    Raises Refusal where it cannot be made, or did not come out right.
    """
    saved = saved_in(file["path"], trust)
    model_class = model_class_named(verdict["model"])
    assert model_class is not None, "the class was found before"
    built = built_like(saved, model_class)
    saved.write(path, mended_state(saved.state, built.state), optimizers_for(built, saved, verdict["dropped"]))
    again = saved_in(path, trust)
    built_like(again, model_class).model.load_state_dict(again.state, strict=True)
    changed = [key for key in again.state if key in saved.state and not same_bits(again.state[key], saved.state[key])]
    if changed or len(again.optimizers) != len(saved.optimizers):
        raise Refusal("did not come out right when it was written anew: " + named(changed or ["optimizer_states"]))


def same_bits(one: Any, other: Any) -> bool:
    """Whether two tensors are the same, not-a-number included."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [each.detach().reshape(-1).contiguous().view(torch.uint8) for each in (one, other)]
    return bool(torch.equal(*flat))


def model_class_named(name: str) -> type | None:
    """The model class that goes by this name, be it as neuralforecast's own files have it (`autotft`)."""
    own = getattr(importlib.import_module("neuralforecast.core"), "MODEL_FILENAME_DICT", {})
    return dict(own, **model_classes()).get(name.lower())


def model_classes() -> dict[str, type]:
    """The models of this release, by their names in lower case."""
    models = importlib.import_module("neuralforecast.models")
    return {each.lower(): value for each, value in vars(models).items() if inspect.isclass(value)}


def shape_of(value: Any) -> Any:
    """The shape of a tensor as a list; None for anything else that a state may hold."""
    return list(value.shape) if hasattr(value, "shape") else None


def named(names: Iterable[str]) -> str:
    """Names for a message, not endlessly many."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def in_short(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join((type(error).__name__ + ": " + str(error)).split())
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " ..."


def numbers_of(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def release() -> str:
    """The version of the imported neuralforecast."""
    return str(getattr(sys.modules["neuralforecast"], "__version__", "of this source"))


def import_neuralforecast(tree: str | None, base_path: list[str]) -> Any:
    """neuralforecast, freshly imported from `tree`, or from where `base_path` has it if `tree` is None."""
    for name in [name for name in sys.modules if name.split(".")[0] == "neuralforecast"]:
        del sys.modules[name]
    sys.path[:] = ([] if tree is None else [tree]) + base_path
    importlib.invalidate_caches()
    return importlib.import_module("neuralforecast")


def end_with_parent() -> None:
    """Makes this process end when nfpatch dies, however it dies."""
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


class Talk:
    """The lines that come in and go out. What libraries print goes to standard error."""

    def __init__(self) -> None:
        self._incoming = sys.stdin
        self._outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def hear(self) -> Any:
        """The next line that came in; None at the end."""
        line = self._incoming.readline()
        return json.loads(line) if line else None

    def say(self, event: str, **fields: Any) -> None:
        """Sends a line out."""
        self._outgoing.write(json.dumps(dict(fields, event=event)) + "\n")
        self._outgoing.flush()


def reported(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds out about a file, or why it is refused."""
    nothing: dict[str, Any] = {"model": None, "dropped": [], "added": [], "detail": "", "cause": None}
    try:
        return dict(nothing, **work())
    except Refusal as refusal:
        return dict(nothing, state="refused", detail=str(refusal), cause=refusal.cause)
    except OSError as error:
        detail = f"cannot be read: {error.strerror or error}"
        return dict(nothing, state="refused", detail=detail, cause="environment")
    except MemoryError:
        return dict(nothing, state="refused", detail="does not fit into the memory", cause="environment")


def judge_all(spec: dict[str, Any], import_tree: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The verdict on each file. The installed source is imported before and after."""
    verdicts = [reported(functools.partial(judge, file, spec)) for file in spec["files"]]
    growing = [number for number, verdict in enumerate(verdicts) if verdict["added"]]
    if growing and spec["trees"]["healed"] is not None:
        import_tree("healed")
        for number in growing:
            file, verdict = spec["files"][number], verdicts[number]
            confirmed = reported(functools.partial(check_dead, file, verdict, spec))
            verdicts[number] = dict(confirmed, model=verdict["model"])
        import_tree("installed")
    else:
        for number in growing:
            detail = missing_weights(verdicts[number]["model"], verdicts[number]["added"])
            verdicts[number].update(state="refused", dropped=[], added=[], detail=detail, cause="content")
    return verdicts


def main() -> None:
    """Judges all files, then writes those anew that it is told to."""
    end_with_parent()
    talk = Talk()
    spec = talk.hear()
    here = os.path.dirname(os.path.abspath(__file__))
    base_path = [entry for entry in sys.path if entry not in ("", here)]

    def import_tree(name: str) -> Any:
        return import_neuralforecast(spec["trees"][name], base_path)

    try:
        package = import_tree("installed")
    except Exception as error:
        talk.say("not-imported", detail=in_short(error))
        return
    talk.say("imported", file=package.__file__)
    verdicts = judge_all(spec, import_tree)
    for number, verdict in enumerate(verdicts):
        talk.say("judged", file=number, **verdict)
    talk.say("all-judged")
    for request in iter(talk.hear, None):
        for number, path in request["write"]:
            try:
                write_anew(spec["files"][number], verdicts[number], path, spec["trust"])
                talk.say("written", file=number)
            except Exception as error:
                words = str(error) if isinstance(error, Refusal) else in_short(error)
                talk.say("failed", file=number, detail=words, errno=getattr(error, "errno", None))
        talk.say("done")


if __name__ == "__main__":
    main()
