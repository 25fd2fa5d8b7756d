"""A digest that is equal on two ranks if both are about to predict the same: the same model, dataset and options.

It covers the weights and the values, not only their shapes; the options of the model, its layers and losses; and
everything else that the bits of a forecast depend on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

# These may differ between ranks that predict the same: devices, logged values, the result of the last prediction, and
# the mode after an error, as a trainer sets the mode
RANK_ATTRIBUTES = (
    *("trainer_kwargs", "train_trajectories", "valid_trajectories", "validation_step_outputs", "metrics"),
    *("explanations", "training"),
)
PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.Size)


def compute_digest(models: Iterable[Any], datasets: Iterable[Any], *options: object) -> str:
    """The digest of these models, datasets and plain options; empty if something cannot be compared.

    Files of a dataset are compared by their names and sizes.
    """
    digest = hashlib.sha256()
    try:
        _add(digest, (torch.get_num_threads(), options))
        for model in models:
            _add_model(digest, model)
        for dataset in datasets:
            _add(digest, (type(dataset).__qualname__, vars(dataset)))
            for folder in getattr(dataset, "files_ds", ()):
                _add(digest, _sizes_in(folder))
    except TypeError:
        return ""
    return digest.hexdigest()


def plain_options(instance: Any) -> dict[str, Any]:
    """The public attributes of a module or a data module that are plain values, or collections of these.

    Tensors are not: those that are neither parameters nor buffers are left over from the last batch.
    """
    options = vars(instance).items()
    return {
        name: value
        for name, value in options
        if not name.startswith("_") and name not in RANK_ATTRIBUTES and _is_plain(value)
    }


def class_name(instance: object) -> str:
    """The name of an instance's class, with its module."""
    return f"{type(instance).__module__}.{type(instance).__qualname__}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _is_plain(list(value.items()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (*PLAIN_TYPES, np.ndarray))


def _sizes_in(folder: Any) -> list[tuple[str, int]]:
    """The files in a folder that holds a series, with their sizes."""
    return [(entry.name, entry.stat().st_size) for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)]


def _add_model(digest: Any, model: Any) -> None:
    _add(digest, class_name(model))
    for module in model.modules():
        _add(digest, (type(module).__qualname__, plain_options(module)))
    for name, tensor in _tensors_in(model):
        _add(digest, (name, tensor))


def _tensors_in(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _add(digest: Any, value: Any) -> None:
    """Add a value to the digest. Raises TypeError for objects without comparable bytes."""
    digest.update(f"{type(value).__name__} ".encode())
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, PLAIN_TYPES):
        digest.update(f"{value!r} ".encode())
    elif isinstance(value, Mapping):
        _add(digest, sorted(value.items()))
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)} ".encode())
        for each in value:
            _add(digest, each)
    elif hasattr(value, "__array__"):  # of numpy, pandas or polars
        _add_array(digest, np.asarray(value))
    else:
        raise TypeError(f"{type(value).__name__} cannot be compared between ranks.")


def _add_array(digest: Any, array: np.ndarray[Any, Any]) -> None:
    if array.dtype.kind in "OMm":  # objects and times have no buffer with their values
        _add(digest, [str(each) for each in array.ravel()])
        return
    digest.update(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
