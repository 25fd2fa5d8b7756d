"""What a pickle of a model may name."""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
import sys
from typing import Any

from .fitting import NOT_BUILT

LOSSES = "neuralforecast.losses.pytorch"
SCALERS = "neuralforecast.common._scalers"
# What Lightning's hyper-parameters are, wherever a release of Lightning keeps it.
ATTRIBUTE_DICTS = (
    "lightning_fabric.utilities.data",
    "lightning.fabric.utilities.data",
    "pytorch_lightning.utilities.parsing",
)
ACTIVATIONS = ("elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "softplus", "tanh")  # of torch


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
