"""The weights of a model, from which two fits start, and how the fits end differently."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from .events import FitCompared

SEED = 1


def seed_everything() -> None:
    """Restarts all streams of random numbers, so that two cases draw the same ones."""
    import numpy
    import torch

    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


def tensors_of(model: Any) -> dict[str, Any]:
    """The parameters and buffers of a model by name. Lightning 1.6 breaks `state_dict` of a copied model."""
    return dict(model.named_parameters(), **dict(model.named_buffers()))


def weights_of(model: Any) -> dict[str, Any]:
    """A copy of these tensors."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors_of(model).items()}


def start_from(model: Any, weights: dict[str, Any]) -> None:
    """Gives a model these weights, as far as it has them; ValueError if one of its own is not among them."""
    import torch

    own = tensors_of(model)
    missing = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if missing:
        raise ValueError("the original model has no weights for " + ", ".join(missing))
    with torch.no_grad():
        for name in own:
            own[name].copy_(weights[name])


class FitEnd(NamedTuple):
    """How a fit ended, in plain tensors and arrays, which do not depend on the classes of a source tree.

    `first` are the weights at its start, None for a search, `frozen` the names of frozen parameters, `losses` those of
    every step.
    """

    first: dict[str, Any] | None
    last: dict[str, Any]
    frozen: tuple[str, ...]
    losses: tuple[float, ...]
    forecasts: Any


def compare_fits(number: int, fit: FitEnd, reference: FitEnd) -> FitCompared:
    """How the fit of the case with this number ended differently from its reference."""
    import torch

    last, expected = fit.last, reference.last
    differences = [(last[name].double() - expected[name].double()).abs() for name in last if last[name].numel()]
    return FitCompared(
        number,
        different=tuple(name for name in last if not torch.equal(last[name], expected[name])),
        largest=max((float(difference.max()) for difference in differences), default=0.0),
        forecasts_equal=torch.equal(torch.from_numpy(fit.forecasts), torch.from_numpy(reference.forecasts)),
        losses_equal=fit.losses == reference.losses,
        removed=tuple(name for name in expected if name not in last),
        frozen=tuple(name for name in fit.frozen if name not in reference.frozen),
    )
