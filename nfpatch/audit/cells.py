"""The cells of an audit: each model with each loss, each kind of exogenous features, and each option varied."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from nfpatch.audit.models import Expression, ModelSource
from nfpatch.audit.options import (
    DISTRIBUTION,
    IMPLICIT_QUANTILE,
    LOSSES,
    MIXTURE,
    POINT,
    Training,
    Varied,
    entry_of,
    values_tried,
)
from nfpatch.catalog import Case

# The name of the cell in which all training options are varied at once
TRAINED_OTHERWISE = "trained otherwise"


def cells_of(model: ModelSource, known_losses: Container[str]) -> list[Case]:
    """The cells of a model, in a release that has these losses."""
    losses = [loss for loss in LOSSES if loss in known_losses]
    entries = {option: entry_of(model, option) for option in model.options}
    training = {option: entry.value for option, entry in entries.items() if isinstance(entry, Training)}
    smalls = {option: entry.small for option, entry in entries.items() if not isinstance(entry, Training)}
    small = {option: value for option, value in smalls.items() if value is not None}
    settings = exogenous_settings(model)
    cells = [_cell(model, loss, exogenous, small) for loss in losses for exogenous in settings]
    cells += [_cell(model, loss, (), small) for loss in (IMPLICIT_QUANTILE, MIXTURE) if loss in known_losses]
    if training:
        cells.append(_cell(model, usual_loss_of(model), settings[-1], {**small, **training}, TRAINED_OTHERWISE))
    for option, entry in entries.items():
        if not isinstance(entry, Varied):
            continue
        required = {name: other for name, other in entry.requires.items() if name in model.options}
        cells += [
            _cell(model, loss, exogenous, {**small, **required, option: value}, f"{option}={value!r}")
            for value in values_tried(model, option, entry)
            for exogenous in _settings_for(entry, settings[-1])
            for loss in (entry.losses or [usual_loss_of(model)])
            if loss in known_losses
        ]
    return cells


def exogenous_settings(model: ModelSource) -> list[tuple[str, ...]]:
    """No features, each kind that the model supports, all of them, and all of them with categorical ones."""
    kinds = model.exogenous
    settings: list[tuple[str, ...]] = [(), *((kind,) for kind in kinds)]
    if len(kinds) > 1:
        settings.append(kinds)
    if kinds and "cat_exog_list" in model.options:
        settings.append((*kinds, "categorical"))
    return settings


def usual_loss_of(model: ModelSource) -> str:
    """The loss of the cells in which an option is varied: a point loss, unless the model is for distributions."""
    default = model.defaults.get("loss")  # None: HINT, which is for distributions
    is_distribution = isinstance(default, Expression) and default.source.startswith(DISTRIBUTION)
    return DISTRIBUTION if default is None or is_distribution else POINT


def _settings_for(entry: Varied, all_features: tuple[str, ...]) -> list[tuple[str, ...]]:
    """No features and all of them, which may build different layers; they are the same if the model supports none."""
    if entry.exogenous_only:
        return [all_features] if all_features else []
    return list(dict.fromkeys([(), all_features]))


def _cell(model: ModelSource, loss: str, exogenous: tuple[str, ...], options: dict[str, Any], varied: str = "") -> Case:
    if model.defaults.get("valid_loss") is not None and loss not in (usual_loss_of(model), DISTRIBUTION, MIXTURE):
        # The model has a separate validation loss, which can be combined only with distributions and with its usual
        # loss. None stands for the training loss.
        options = {"valid_loss": None, **options}
    words = (loss, "+".join(exogenous), varied)
    return Case(model.name, ", ".join(filter(None, words)), loss, exogenous, options)
