"""Describes the arguments of a call of neuralforecast, so that they can be compared between ranks."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Callable

# Longer values are cut, with a digest for the comparison
LONGEST = 80
PLAIN = (int, float, str, list, tuple)


def describe_arguments(
    method: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], models: list[Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """The options of the models and of the call, and the data of the call, by name."""
    import inspect

    described: dict[str, str] = {}
    data: dict[str, str] = {}
    names = [type(model).__name__ for model in models]
    for number, (name, model) in enumerate(zip(names, models), 1):
        label = name if names.count(name) == 1 else f"{name} {number}"
        described.update({f"{label}.{key}": value for key, value in options_of(model).items()})
    try:
        given = inspect.signature(method).bind(*arguments, **options).arguments
    except (TypeError, ValueError):
        return described, data
    for key, value in list(given.items())[1:]:  # without the forecaster
        of_data, plain = describe_data(value), describe_value(value)
        if of_data is not None:
            data[key] = of_data
        elif plain is not None:
            described[key] = plain
    return described, data


def options_of(model: Any) -> dict[str, str]:
    """The options of a model, and of the configuration of a search, that are plain values."""
    found: dict[str, Any] = dict(getattr(model, "hparams", None) or {})
    config = getattr(model, "config", None)
    if isinstance(config, dict):
        found.update(config)
    found.update(getattr(model, "trainer_kwargs", None) or {})
    words = {str(key): describe_value(value) for key, value in found.items()}
    return {key: value for key, value in words.items() if value is not None}


def describe_value(value: Any) -> str | None:
    """A plain value as text; None for objects, whose text differs between processes anyway."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    first = value[0] if isinstance(value, (list, tuple)) and value else ""
    if not isinstance(value, (*PLAIN, type(None))) or not isinstance(first, PLAIN) or " at 0x" in repr(value):
        return None
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({digest(text.encode())})"


def describe_data(value: Any) -> str | None:
    """The size of a frame or dataset of neuralforecast, with a digest of its rows in any order; None for others."""
    table = value if hasattr(value, "columns") else getattr(value, "temporal", value)
    try:
        if hasattr(table, "hash_rows"):  # polars
            return f"{len(table)} rows of {', '.join(table.columns)} ({int(table.hash_rows().sum()) % 2**32:08x})"
        if hasattr(table, "to_csv") and hasattr(table, "columns"):
            import pandas

            rows = pandas.util.hash_pandas_object(table, index=table.index.name is not None)
            names = ", ".join(map(str, table.columns))
            return f"{len(table)} rows of {names} ({int(rows.sum()) % 2**32:08x})"
        if table is not value and hasattr(table, "numpy"):
            return f"{len(table)} rows ({digest(table.numpy().tobytes())})"
    except Exception:
        return None
    return None


def digest(content: bytes) -> str:
    """The first 8 hex digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:8]
