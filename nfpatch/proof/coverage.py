"""Which of the patches in question a proof does not show, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Unproved:
    """A patch that is applied, needed or named and that no fit shows; `is_named` where its id was named."""

    id: str
    reason: str
    is_named: bool = False


@dataclass(frozen=True)
class Coverage:
    """What a proof leaves out.

    `not_needed` are the patches that were named and that this release does not need, and `skipped` those that `--skip`
    leaves out, each with the reason.
    """

    unproved: tuple[Unproved, ...] = ()
    not_needed: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """The ids that were named and are not proved."""
        return tuple(patch.id for patch in self.unproved if patch.is_named)

    def suffices(self, proved: Iterable[str]) -> bool:
        """Whether a proof of these patches is one: of all that were named, and not of none where there are some."""
        return not self.missing and (not self.unproved or any(True for _ in proved))

    def to_json(self) -> dict[str, object]:
        """What the JSON of `nfpatch verify` says of it."""
        return {
            "unproved": [{"id": patch.id, "reason": patch.reason} for patch in self.unproved],
            "not_needed": [{"id": patch_id, "reason": reason} for patch_id, reason in self.not_needed.items()],
            "skipped": [{"id": patch_id, "reason": reason} for patch_id, reason in self.skipped.items()],
        }
