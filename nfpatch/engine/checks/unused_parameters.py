"""DDP refuses a model because of unused parameters."""

from __future__ import annotations

from nfpatch.console import pluralize
from nfpatch.engine.checks.errors import failures_of
from nfpatch.engine.facts import CallFacts, Finding, in_file, listed

WHY = (
    "In each step DDP needs a gradient for every trainable parameter, and raises if one has none, unless "
    "find_unused_parameters=True is set, which slows down every step."
)


def find(facts: CallFacts) -> Finding | None:
    """The refusal, if it was the first error, with the parameters that torch names or that were observed."""
    failures = failures_of(facts)
    if not failures or not failures[0][1].is_refusal:
        return None
    refusal = failures[0][1]
    unused = refusal.unused or facts.unused_parameters
    words = f"refused by strict DDP: {pluralize(len(unused), 'unused parameter', 'unused parameters')}"
    if not facts.is_case:
        refused = sorted(rank for rank, each in failures if each.is_refusal)
        who = "every rank" if len(refused) == len(facts.ranks) else f"rank {', '.join(map(str, refused))}"
        words = f"{who}: {words}"
    layers = [layer for layer in facts.own_layers if set(layer.parameters) & set(unused)]
    own = {name for layer in layers for name in layer.parameters}
    lines, remedy = [f"{words} ({listed(unused)})"], []
    for layer in layers:
        lines.append(f"{layer.layer} is created by the script's own class {layer.owner}, {layer.file}:{layer.line}")
        place = f"remove it ({in_file(layer.file, layer.line)}), or freeze it below that line:"
        remedy += [
            f"Use {layer.layer} in the forward pass of {layer.owner}, {place}",
            f"    {layer.layer}.requires_grad_(False)",
        ]
    return Finding(
        "unused-parameters",
        "\n".join(lines),
        message=refusal.message,
        unused=tuple(name for name in unused if name not in own),
        remedy=tuple(remedy),
    )
