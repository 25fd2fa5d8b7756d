"""The weights of a model, where two fits are to begin alike, and how far they end alike."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from .events import Comparison

# Set before every case, so that two of them draw the same numbers.
SEED = 1


def seed_everything() -> None:
    """Starts all streams of random numbers again."""
    import numpy
    import torch

    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


def tensors_of(model: Any) -> dict[str, Any]:
    """All that a model has learned or computed, by name. Lightning 1.6 breaks `state_dict` of a copied model."""
    return dict(model.named_parameters(), **dict(model.named_buffers()))


def weights_of(model: Any) -> dict[str, Any]:
    """A copy of these tensors."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors_of(model).items()}


def start_from(model: Any, weights: dict[str, Any]) -> None:
    """Gives a model these weights; those that it has no place for are left out."""
    import torch

    own = tensors_of(model)
    strange = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if strange:
        raise ValueError("the original model has no weights for " + ", ".join(strange))
    with torch.no_grad():
        for name in own:
            own[name].copy_(weights[name])


class FitEnd(NamedTuple):
    """How a fit ended: plain tensors and arrays, as the classes of one source tree mean nothing to another.

    `first` are the weights from which it started, None where the case makes no forecasts, `frozen` the names of frozen
    parameters, `losses` those of every step.
    """

    first: dict[str, Any] | None
    last: dict[str, Any]
    frozen: tuple[str, ...]
    losses: tuple[float, ...]
    forecasts: Any


def compared(fitted: FitEnd, reference: FitEnd) -> Comparison:
    """How the end of a fit differs from that of its reference; two bit-equal ends differ in nothing and by nothing."""
    import torch

    last, like = fitted.last, reference.last
    forecasts = torch.from_numpy(fitted.forecasts), torch.from_numpy(reference.forecasts)
    same_shape = forecasts[0].shape == forecasts[1].shape
    return Comparison(
        different=tuple(name for name in last if not torch.equal(last[name], like[name])),
        largest=max(
            (float((last[name].double() - like[name].double()).abs().max()) for name in last if last[name].numel()),
            default=0.0,
        ),
        forecasts_equal=same_shape and torch.equal(*forecasts),
        losses_equal=fitted.losses == reference.losses,
        removed=tuple(name for name in like if name not in last),
        frozen=tuple(name for name in fitted.frozen if name not in reference.frozen),
    )
