"""The codemods that patches are written in.

A codemod states what it expects, and refuses when that is not exactly what it finds: one match, in the named class and
method, and no reader that would miss what goes. Everything else in the file keeps its bytes.

LibCST is imported when a codemod runs, not when it is declared: `status` and `revert` never pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
class RemoveUnreadLayer:
    """Remove `if CONDITION: self.ATTRIBUTE = ...` from a constructor, with the comment that stands above it.

    Refuses when anything in the module reads the attribute, be it by a `getattr` with its name: neuralforecast 1.1.0
    has the same lines, and its `forward` uses the layer.
    """

    class_name: str
    attribute: str
    condition: str

    def __call__(self, module: cst.Module) -> cst.Module:
        """The module without the layer. Raises CodemodRefused."""
        from nfpatch import syntax

        constructor = syntax.find_constructor(module, self.class_name)
        uses = syntax.find_uses(module, self.attribute)
        if uses.others:
            raise CodemodRefused(f"the attribute `{self.attribute}` is read in line {uses.first_other_line}")
        assignment = syntax.only_assignment(uses, self.attribute)
        statement = syntax.statement_with(constructor, assignment)
        if statement is None or not syntax.is_if_around(statement, assignment, self.condition):
            raise CodemodRefused(
                f"`self.{self.attribute} = ...` is not the only statement under `if {self.condition}:` "
                f"in {self.class_name}.__init__"
            )
        return syntax.without_statement(module, constructor, statement)


@dataclass(frozen=True)
class GuardLayer:
    """Put `if CONDITION:` over `self.ATTRIBUTE = FACTORY(..., SIZE_ARGUMENT=SIZE, ...)` in a constructor.

    The condition is `SIZE > 0`. Refuses when the layer is read outside a branch that `read_under` guards, because then
    a model without it would crash.
    """

    class_name: str
    attribute: str
    factory: str
    size_argument: str
    size: str
    read_under: str

    def __call__(self, module: cst.Module) -> cst.Module:
        """The module with the layer under its guard. Raises CodemodRefused."""
        from nfpatch import syntax

        constructor = syntax.find_constructor(module, self.class_name)
        uses = syntax.find_uses(module, self.attribute, allowed_under=self.read_under)
        if uses.others:
            raise CodemodRefused(
                f"the attribute `{self.attribute}` is read in line {uses.first_other_line}, "
                f"outside `if {self.read_under}:`"
            )
        assignment = syntax.only_assignment(uses, self.attribute)
        statement = syntax.statement_with(constructor, assignment)
        if statement is None or not syntax.is_statement_of(statement, assignment):
            raise CodemodRefused(
                f"`self.{self.attribute} = ...` is not a plain statement of {self.class_name}.__init__ "
                "(perhaps it is guarded already)"
            )
        if not syntax.is_call_with(assignment.value, self.factory, self.size_argument, self.size):
            raise CodemodRefused(
                f"`self.{self.attribute}` is not built by `{self.factory}(..., {self.size_argument}={self.size}, ...)`"
            )
        return syntax.with_guard(module, constructor, statement, f"{self.size} > 0")


def rewrite(source: bytes, codemods: Mapping[str, Codemod]) -> bytes:
    """The source after these codemods, in their order, every byte that they do not name unchanged.

    `codemods` are keyed by the id of their patch, which the error names. Raises CodemodRefused when the
    source does not parse, would not survive LibCST byte for byte, or is not what a codemod expects.
    """
    from nfpatch import syntax

    module = syntax.parse(source)
    for patch_id, codemod in codemods.items():
        try:
            module = codemod(module)
        except CodemodRefused as error:
            raise CodemodRefused(f"for {patch_id}, {error}") from error
    return module.bytes


def check_parses(source: bytes) -> None:
    """Raise CodemodRefused unless the source parses: the last check of a result that no fingerprint vouches for."""
    from nfpatch import syntax

    syntax.parse(source)
