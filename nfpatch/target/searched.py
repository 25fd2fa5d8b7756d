"""What a search has tried, and what it has come to."""

from __future__ import annotations

from typing import Any

from .models import OTHER_SHAPES


def attempts_of(results: Any) -> list[str]:
    """Each trial of Optuna's study or of ray's results, as this rank knows it, and the best."""
    if hasattr(results, "trials"):
        tried = [
            f"{trial.number}: {trial.params}, loss {trial.value}, trained with {searched_in(arguments_of(trial))}"
            for trial in results.trials
        ]
        return [*tried, f"the best is {results.best_trial.number}"]
    tried = [f"{searched_in(result.config)}, loss {result.metrics['loss']}" for result in results]
    return [*tried, f"the best is {searched_in(results.get_best_result().config)}"]


def arguments_of(trial: Any) -> dict[str, Any]:
    """What this rank has trained the model of a trial with."""
    arguments: dict[str, Any] = trial.user_attrs["ALL_PARAMS"]
    return arguments


def searched_in(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of the arguments of a model, those that are searched."""
    return {name: arguments[name] for name in ("learning_rate", *OTHER_SHAPES) if name in arguments}
