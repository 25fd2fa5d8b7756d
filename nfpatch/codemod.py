"""What patches are written in: statements as they stand in neuralforecast, and what shall stand there instead.

A codemod states what it expects, and refuses when that is not exactly what it finds: the statements once, in the named
function, and no reader that would miss what goes. Everything else in the file keeps its bytes.

LibCST is imported when a codemod runs, not when it is declared: `status` and `revert` never pay for it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional, Protocol

from nfpatch.errors import Refused

if TYPE_CHECKING:
    import libcst as cst


class CodemodRefused(Refused):
    """The source is not what the codemod expects; its text is a clause that says what is amiss."""


class Codemod(Protocol):
    """A rewrite of one module of neuralforecast."""

    def __call__(self, module: cst.Module) -> cst.Module:
        """The rewritten module. Raises CodemodRefused where the source is not the expected one."""


@dataclass(frozen=True)
class Change:
    """Statements that follow each other, and what takes their place.

    `where` is the function or class whose own statements they are: `TFT.__init__`, or `TFT` for a method itself. `old`
    is their source as it stands there exactly once, whatever its spaces, line breaks, parentheses and comments; `...`
    as the body of a compound statement stands for any body. `new` is the source that shall stand there: what it has in
    common with `old` keeps its bytes. The empty text removes them, with the comment above; None leaves them as they
    are, so that the change is but an expectation.
    """

    where: str
    old: str
    new: Optional[str] = None


@dataclass(frozen=True)
class Rewrite:
    """Make these changes, unless something would miss what they take away.

    `reads` names the attributes that are gone afterwards, or not always there, with the condition under which they may
    still be read: `{"static_encoder": "s_inp is not None"}`, or the empty text for never. Each must be assigned once.
    A read counts anywhere in the module, be it a `getattr` with the name: NBEATSx of neuralforecast 1.1.0 has the same
    lines as later releases, and its `forward` uses the layer. `ignores` names the parameters that a function must not
    use.
    """

    changes: tuple[Change, ...]
    reads: Mapping[str, str] = field(default_factory=dict)
    ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __call__(self, module: cst.Module) -> cst.Module:
        """The module with these changes. Raises CodemodRefused."""
        from nfpatch.patching import rewriting, syntax

        for where, parameters in self.ignores.items():
            for parameter in parameters:
                syntax.check_ignored(module, where, parameter)
        for attribute in self.reads:
            syntax.check_assigned_once(module, attribute)
        result = module
        for change in self.changes:
            result = rewriting.with_change(result, change.where, change.old, change.new)
        for attribute, condition in self.reads.items():
            syntax.check_unread(result, attribute, condition, source=module)
        return result


def rewrite(source: bytes, codemods: Mapping[str, Codemod]) -> bytes:
    """The source after these codemods, in their order, every byte that they do not name unchanged.

    `codemods` are keyed by the id of their patch, which the error names. Raises CodemodRefused when the
    source does not parse, would not survive LibCST byte for byte, or is not what a codemod expects.
    """
    with _without_collector():
        from nfpatch.patching import syntax

        module = syntax.parse(source)
        for patch_id, codemod in codemods.items():
            try:
                module = codemod(module)
            except CodemodRefused as error:
                raise CodemodRefused(f"for {patch_id}, {error}") from error
        return syntax.text_of(module)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector from walking LibCST's trees over and over; it finds nothing in them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_parses(source: bytes) -> None:
    """Raise CodemodRefused unless the source parses: the last check of a result that no fingerprint vouches for."""
    from nfpatch.patching import syntax

    syntax.parse(source)
