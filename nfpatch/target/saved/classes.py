"""The classes of models that this release has, and what is special about two of them."""

from __future__ import annotations

import importlib
import inspect

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
