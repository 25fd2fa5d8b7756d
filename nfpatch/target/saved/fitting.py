"""Compares a saved model with a new instance of its class, and converts its state for that instance."""

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

# The constructor of this model downloads a language model that the file names
NOT_BUILT = "TimeLLM"
# A model that saves the model that it wraps instead of itself
WRAPPER = "hint"


def model_class_named(name: str) -> type:
    """The model class of this name, which may be one that neuralforecast uses in its files, such as `autotft`.

    Raises Refusal if this release has no such class.
    """
    own: dict[str, type] = getattr(importlib.import_module("neuralforecast.core"), "MODEL_FILENAME_DICT", {})
    model_class = {**own, **model_classes()}.get(name.lower())
    if model_class is None:
        raise Refusal(f"holds a model of class {name}, which neuralforecast {release()} does not have")
    return model_class


def model_classes() -> dict[str, type]:
    """The models of this release by name in lower case."""
    models = importlib.import_module("neuralforecast.models")
    return {each.lower(): value for each, value in vars(models).items() if inspect.isclass(value)}


def built_like(saved: Any, model_class: type) -> Any:
    """A new instance of the class with the hyperparameters of a file."""
    try:
        # a copy, because constructors may change their arguments
        return model_class(**copy.deepcopy(dict(saved.hyper_parameters)))
    except Exception as error:
        raise Refusal(
            f"holds hyper-parameters from which neuralforecast {release()} builds no {model_class.__name__}: "
            f"{one_line(error)}"
        ) from error


def changed_keys(
    model_class: type, saved: Any, built: Any, unused: dict[str, tuple[str, ...]]
) -> tuple[list[str], list[str]]:
    """The keys to drop and the keys to add, all of unused parameters. Raises Refusal if anything else differs."""
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
    """The shape of a tensor as a list; None for other values of a state dict."""
    return list(value.shape) if hasattr(value, "shape") else None


def migrated_state(saved: Any, built: Any) -> Any:
    """The state dict `built`, with the tensors of `saved` for all keys that both have."""
    state: Any = type(built)() if isinstance(saved, collections.OrderedDict) else {}
    for key, tensor in built.items():
        state[key] = saved[key] if key in saved else tensor.detach().clone()
    if hasattr(saved, "_metadata"):  # the versions of the modules
        state._metadata = type(built._metadata)(
            (name, saved._metadata.get(name, version)) for name, version in built._metadata.items()
        )
    return state


def migrated_optimizers(model: Any, saved: Any, dropped: Iterable[str]) -> list[dict[str, Any]]:
    """The states of a file's optimizers, converted for the parameters of the model."""
    # a state dict has the parameters in the order of the model, with buffers in between
    built = [name for name, _ in model.named_parameters()]
    own = {*built, *dropped}
    parameters = [key for key in saved.state if key in own]
    return [migrated_optimizer(each, parameters, built, saved.state) for each in saved.optimizers]


def migrated_optimizer(optimizer: dict[str, Any], saved: list[str], built: list[str], state: Any) -> dict[str, Any]:
    """The state of an optimizer, converted from the parameters `saved` to the parameters `built`, both in order.

    Its entries are numbered like the parameters of the model. `state` is the saved state dict. An added parameter gets
    no entry: optimizers create it at the first gradient, which an unused parameter never gets.
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
