"""DDP refuses a model because some of its parameters got no gradient."""

from __future__ import annotations

from typing import Optional

from nfpatch.console import pluralize
from nfpatch.engine.checks.errors import first_failure
from nfpatch.engine.facts import CallFacts, Finding, listed


def find(facts: CallFacts) -> Optional[Finding]:
    """The refusal, if it was the first error, with the names that torch gives or that were observed."""
    first = first_failure(facts)
    if first is None or not first[1].is_refusal:
        return None
    unused = first[1].unused or facts.unused_parameters()
    words = f"refused by strict DDP: {pluralize(len(unused), 'parameter', 'parameters')} without a gradient"
    return Finding("unused-parameters", f"{words} ({listed(unused)})", message=first[1].message, unused=unused)
