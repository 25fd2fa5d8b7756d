"""DDP refuses a model because of unused parameters."""

from __future__ import annotations

from typing import Optional

from nfpatch.console import pluralize
from nfpatch.engine.checks.errors import first_failure
from nfpatch.engine.facts import CallFacts, Finding, in_file, listed
from nfpatch.target.events import OwnLayerUnused

WHY = (
    "In each step DDP needs a gradient for every trainable parameter, and raises if one has none, unless "
    "find_unused_parameters=True is set, which slows down every step."
)


def find(facts: CallFacts) -> Optional[Finding]:
    """The refusal, if it was the first error, with the parameters that torch names or that were observed."""
    first = first_failure(facts)
    if first is None or not first[1].is_refusal:
        return None
    unused = first[1].unused or facts.unused_parameters()
    words = f"refused by strict DDP: {pluralize(len(unused), 'unused parameter', 'unused parameters')}"
    if not facts.is_case:
        refused = [rank for rank, each in facts.ranks.items() if each.raised is not None and each.raised.is_refusal]
        who = "every rank" if len(refused) == len(facts.ranks) else f"rank {', '.join(map(str, refused))}"
        words = f"{who}: {words}"
    layers = [layer for layer in facts.own_layers() if set(layer.parameters) & set(unused)]
    own = {name for layer in layers for name in layer.parameters}
    return Finding(
        "unused-parameters",
        "\n".join([f"{words} ({listed(unused)})", *map(_in_words, layers)]),
        message=first[1].message,
        unused=tuple(name for name in unused if name not in own),
        remedy=tuple(line for layer in layers for line in remedy_for(layer)),
    )


def _in_words(layer: OwnLayerUnused) -> str:
    return f"{layer.layer} is created by the script's own class {layer.owner}, {layer.file}:{layer.line}"


def remedy_for(layer: OwnLayerUnused) -> tuple[str, ...]:
    """How to change the script where a class of the user has an unused layer."""
    place = in_file(layer.file, layer.line)
    return (
        f"Use {layer.layer} in the forward pass of {layer.owner}, remove it ({place}), or freeze it below that line:",
        f"    {layer.layer}.requires_grad_(False)",
    )
