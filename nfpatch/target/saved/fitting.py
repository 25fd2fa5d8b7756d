"""A saved model held against a fresh instance of its class: which keys are too many, and which too few."""

from __future__ import annotations

import copy
import fnmatch
import importlib
import inspect
from collections.abc import Iterable
from typing import Any

from ..source import release
from .refusals import Refusal, in_short, named

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


def misfit(
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
                model_class.__name__, release(), "; ".join(w + ": " + named(keys) for w, keys in wrong.items() if keys)
            )
        )
    return dropped, added


def missing_weights(model: str | None, keys: Iterable[str]) -> str:
    """Why a file is refused that lacks what the model may need."""
    return f"lacks keys that are not known to be unused in {model} of neuralforecast {release()}: {named(keys)}"


def shape_of(value: Any) -> Any:
    """The shape of a tensor as a list; None for anything else that a state may hold."""
    return list(value.shape) if hasattr(value, "shape") else None
