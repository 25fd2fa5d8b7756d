"""The script goes another way on some rank."""

from __future__ import annotations

from typing import Optional

from nfpatch.engine.facts import CallFacts, Finding


def find(facts: CallFacts) -> Optional[Finding]:
    """The first rank that makes another call instead."""
    for rank, each in facts.ranks.items():
        if each.name and (each.name, each.line) != (facts.name, facts.line):
            return Finding("wrong", f"rank {rank} makes another call meanwhile: {each.name} in line {each.line}")
    return None
