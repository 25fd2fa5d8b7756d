"""Reads files of `torch.save` without executing code that they name."""

from __future__ import annotations

import collections
import errno
import functools
import importlib
import inspect
import pickle
import re
import sys
from types import SimpleNamespace
from typing import Any

from ..source import numbers_of, release
from . import Refusal, one_line
from .fitting import NOT_BUILT

# The first torch whose restricted unpickler can map a name to another object
FIRST_TORCH_THAT_RESTRICTS = (2, 6)
LOSSES = "neuralforecast.losses.pytorch"
SCALERS = "neuralforecast.common._scalers"
# The modules of the class of Lightning's hyperparameters, by release
ATTRIBUTE_DICTS = (
    "lightning_fabric.utilities.data",
    "lightning.fabric.utilities.data",
    "pytorch_lightning.utilities.parsing",
)
ACTIVATIONS = ("elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "softplus", "tanh")  # of torch


def unpickle(path: str, trust: bool) -> Any:
    """The content of a file of `torch.save`, with tensors on the CPU. Only with `trust` may it execute code."""
    import torch

    try:
        if trust:
            arguments = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}
            return torch.load(path, map_location="cpu", **arguments)
        allowed = allowed_globals()
        if numbers_of(torch.__version__) >= FIRST_TORCH_THAT_RESTRICTS:
            return unpickle_with_torch(path, allowed)
        return torch.load(path, map_location="cpu", pickle_module=restricted_pickle_module(allowed))
    except pickle.UnpicklingError as error:
        raise refusal_of_pickle(error) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # raised for a position beyond the end
            raise
        raise Refusal("is damaged or truncated, or no file of torch: " + one_line(error)) from error


def unpickle_with_torch(path: str, allowed: dict[str, Any]) -> Any:
    """The content according to torch's restricted unpickler.

    It fills only three kinds of dictionaries, so Lightning's is read as one of them and converted afterwards.
    """
    import torch

    attribute_dict = dictionary_of_lightning()
    begun: list[Any] = []

    class Begun:
        """Creates what becomes an AttributeDict afterwards."""

        def __new__(cls) -> Any:
            begun.append(collections.Counter())
            return begun[-1]

    stand_ins = {name: Begun if value is attribute_dict else value for name, value in allowed.items()}
    with torch.serialization.safe_globals([(value, name) for name, value in stand_ins.items()]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    for each in begun:
        each.__class__ = attribute_dict
    return content


def restricted_pickle_module(allowed: dict[str, Any]) -> Any:
    """A replacement for the module `pickle`, for releases of torch whose unpickler cannot be restricted."""
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

    return SimpleNamespace(
        __name__="restricted_pickle_module",
        Unpickler=Unpickler,
        load=lambda file, **options: Unpickler(file, **options).load(),
    )


def refusal_of_pickle(error: Exception) -> Refusal:
    """The reason why an unpickler refuses a file."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is not None:
        module_name, _, name = found.group(1).rpartition(".")
        if module_name.startswith("neuralforecast.") and not hasattr(sys.modules.get(module_name), name):
            return Refusal(f"holds `{found.group(1)}`, which neuralforecast {release()} does not have")
    elif "reduce" not in str(error) and "new object" not in str(error):
        # the part of torch's long message that names the problem
        words = str(error).rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0]
        return Refusal("is damaged, or no file that torch.save wrote: " + words)
    what = "a function that it makes itself" if found is None else f"`{found.group(1)}`"
    return Refusal(f"wants to use {what}, which nfpatch does not know to be harmless", "code")


def allowed_globals() -> dict[str, Any]:
    """The harmless classes and functions that a pickle may name, by the name that it uses.

    These are losses and their helpers, modules, distributions, optimizers, schedulers, numbers of numpy, and
    Lightning's dictionary and callbacks. A callback refers to the local file system and, once a fit has started, to
    methods of the model.
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
    allowed["_codecs.encode"] = encode_latin1
    allowed["builtins.getattr"] = get_harmless_method
    allowed["fsspec.spec.make_instance"] = make_local_file_system
    attribute_dict = dictionary_of_lightning()
    allowed.update({module_name + ".AttributeDict": attribute_dict for module_name in ATTRIBUTE_DICTS})
    return allowed


def classes_of(module: Any, base: type) -> list[type]:
    """The subclasses of `base` that a module defines."""
    found = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)]
    return [value for value in found if value.__module__.startswith(module.__name__)]


def encode_latin1(text: str, encoding: str) -> bytes:
    """Replaces `_codecs.encode`, which protocol 2 uses for bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError("GLOBAL _codecs.encode is not allowed for " + encoding)
    return text.encode("latin1")


def get_harmless_method(owner: Any, name: str) -> Any:
    """Replaces `getattr`, for losses that refer to their own methods (3.0) and callbacks to those of the model."""
    import pytorch_lightning

    method = inspect.getattr_static(type(owner), name, None)
    of_losses = type(owner).__module__ == LOSSES and getattr(method, "__module__", None) == LOSSES
    of_model = isinstance(owner, pytorch_lightning.LightningModule) and name in ("log", "log_dict")
    if not (of_losses or of_model) or not inspect.isfunction(method) or name.startswith("__"):
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr is not allowed for {type(owner)}.{name}")
    return getattr(owner, name)


def make_local_file_system(kind: Any, arguments: Any, options: Any) -> Any:
    """Replaces `fsspec.spec.make_instance`, for the local file system in a ModelCheckpoint."""
    from fsspec.implementations.local import LocalFileSystem

    if kind is not LocalFileSystem:
        raise pickle.UnpicklingError(f"GLOBAL fsspec.spec.make_instance is not allowed for {kind}")
    return LocalFileSystem(*arguments, **options)


def dictionary_of_lightning() -> type:
    """The class of hyperparameters in the installed Lightning."""
    import pytorch_lightning

    return type(pytorch_lightning.LightningModule().hparams)
