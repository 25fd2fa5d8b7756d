"""A saved model held against a fresh instance of its class: which keys are too many, and which too few."""

from __future__ import annotations

import collections
import copy
import fnmatch
import importlib
import inspect
from collections.abc import Iterable
from typing import Any

from ..source import release
from . import Refusal, listed, one_line

# Building this model downloads a language model whose name is in the file.
NOT_BUILT = "TimeLLM"
# A model that saves not itself but the model that it wraps.
WRAPPER = "hint"


def model_class_named(name: str) -> type | None:
    """The model class that goes by this name, be it as neuralforecast's own files have it (`autotft`)."""
    own = getattr(importlib.import_module("neuralforecast.core"), "MODEL_FILENAME_DICT", {})
    return dict(own, **model_classes()).get(name.lower())


def model_classes() -> dict[str, type]:
    """The models of this release, by their names in lower case."""
    models = importlib.import_module("neuralforecast.models")
    return {each.lower(): value for each, value in vars(models).items() if inspect.isclass(value)}


def built_like(saved: Any, model_class: type) -> Any:
    """A fresh instance of a class with the hyper-parameters of a file."""
    try:
        # a constructor may keep, and change, what it is given
        return model_class(**copy.deepcopy(dict(saved.hyper_parameters)))
    except Exception as error:
        raise Refusal(
            f"holds hyper-parameters from which neuralforecast {release()} builds no {model_class.__name__}: "
            f"{one_line(error)}"
        ) from error


def changed_keys(
    model_class: type, saved: Any, built: Any, unused: dict[str, tuple[str, ...]]
) -> tuple[list[str], list[str]]:
    """The keys to drop and the keys to add, all declared unused. Raises Refusal where anything else does not fit."""
    patterns = [pattern for each in model_class.__mro__ for pattern in unused.get(each.__name__, ())]

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
                model_class.__name__, release(), "; ".join(w + ": " + listed(keys) for w, keys in wrong.items() if keys)
            )
        )
    return dropped, added


def shape_of(value: Any) -> Any:
    """The shape of a tensor as a list; None for anything else that a state may hold."""
    return list(value.shape) if hasattr(value, "shape") else None


def migrated_state(saved: Any, built: Any) -> Any:
    """The tensors of `built`, in its order; those that `saved` has, from there."""
    state: Any = type(built)() if isinstance(saved, collections.OrderedDict) else {}
    for key, tensor in built.items():
        state[key] = saved[key] if key in saved else tensor.detach().clone()
    if hasattr(saved, "_metadata"):  # torch's versions of the modules
        state._metadata = type(built._metadata)(
            (name, saved._metadata.get(name, version)) for name, version in built._metadata.items()
        )
    return state


def migrated_optimizers(model: Any, saved: Any, dropped: Iterable[str]) -> list[dict[str, Any]]:
    """The states of the optimizers of a file, for the parameters that the instance has."""
    # a state lists parameters in the order in which the model does, buffers in between
    built = [name for name, _ in model.named_parameters()]
    own = {*built, *dropped}
    parameters = [key for key in saved.state if key in own]
    return [migrated_optimizer(each, parameters, built, saved.state) for each in saved.optimizers]


def migrated_optimizer(optimizer: dict[str, Any], saved: list[str], built: list[str], state: Any) -> dict[str, Any]:
    """The state of an optimizer for other parameters.

    Its entries go by the position of a parameter among those of the model. `saved` and `built` are the names of the
    parameters, in order; `state` are the tensors of the model by name. A parameter that is new has no entry: optimizers
    make it when the first gradient comes, which an unused parameter never sees.
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
