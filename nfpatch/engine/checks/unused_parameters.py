"""DDP refuses a model because some of its parameters got no gradient."""

from __future__ import annotations

from typing import Optional

from nfpatch.console import pluralize
from nfpatch.engine.checks.errors import first_failure
from nfpatch.engine.facts import CallFacts, Finding, in_file, listed
from nfpatch.target.events import OwnLayerUnused

WHY = (
    "DDP waits in each step for a gradient of every trainable parameter; without find_unused_parameters=True, which "
    "costs time in each step, it raises instead."
)


def find(facts: CallFacts) -> Optional[Finding]:
    """The refusal, if it was the first error, with the names that torch gives or that were observed."""
    first = first_failure(facts)
    if first is None or not first[1].is_refusal:
        return None
    unused = first[1].unused or facts.unused_parameters()
    words = f"refused by strict DDP: {pluralize(len(unused), 'parameter', 'parameters')} without a gradient"
    if not facts.is_case:
        refused = [rank for rank, each in facts.ranks.items() if each.failure is not None and each.failure.is_refusal]
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
    return f"{layer.layer} is made by the script's own class {layer.owner}, {layer.file}:{layer.line}"


def remedy_for(layer: OwnLayerUnused) -> tuple[str, ...]:
    """What to write for an unused layer of the user's own."""
    place = in_file(layer.file, layer.line)
    return (
        f"Use {layer.layer} in the forward pass of {layer.owner}, remove it ({place}), or freeze it below that line:",
        f"    {layer.layer}.requires_grad_(False)",
    )
