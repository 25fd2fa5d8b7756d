"""What patches are written in: statements as they stand in neuralforecast, and what shall stand there instead.

A codemod states what it expects, and is refused when that is not exactly what it finds: the statements once, in the
named function, and nothing that would miss what it takes away. Everything else in the file keeps its bytes. These are
facts only; `nfpatch.patching.rewriting` makes edits of them.

Facts that every command imports are named tuples: a dataclass takes seven times as long to be made, and `benchmarks/`
holds the commands to the time of a bare import.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Optional

from nfpatch.errors import Refused

# The package below an install's folder that holds the runtime modules of its patches.
RUNTIME_PACKAGE = "neuralforecast._nfpatch"


class CodemodRefused(Refused):
    """The source is not what the codemod expects; its text is a clause that says what is amiss."""


class Change(NamedTuple):
    """Statements that follow each other, and what takes their place.

    `where` is the function or class whose own statements they are: `TFT.__init__`, or `TFT` for a method itself; the
    module for the empty text. Where they stand in compound statements of it, `inside` quotes the heads of these,
    outermost first: `('if step == "train":', "else:")` for the `else` of the one `if` that asks so.

    `old` is their source as it stands there exactly once, whatever its spaces, line breaks, parentheses and comments;
    `...` as the body of a compound statement stands for any body. `new` is the source that shall stand there: what it
    has in common with `old` keeps its bytes. The empty text removes them, with the comment above; None leaves them as
    they are, so that the change is but an expectation.
    """

    where: str
    old: str
    new: Optional[str] = None
    inside: tuple[str, ...] = ()


class Rewrite(NamedTuple):
    """Make these changes in one file, unless something would miss what they take away.

    Each change is found in the file as it was, whatever the others do to it. `imports` names the runtime modules that
    the changes call: each is imported from `RUNTIME_PACKAGE` by a line before the file's first import, which several
    patches share.

    `reads` names the attributes that are frozen afterwards, gone, or not always there, with the condition under which
    they may still be read: `{"static_encoder": "s_inp is not None"}`, or the empty text for never. Each must be
    assigned once. A read counts anywhere in the module, be it a `getattr` with the name: NBEATSx of neuralforecast
    1.1.0 has the same lines as later releases, and its `forward` uses the layer. `X.requires_grad_(False)` is no read
    of X; nor is one in a statement that a change quotes as an expectation, as the patch knows what becomes of its
    result. `ignores` names the parameters that a function must not use. `absent` names statements that must not stand
    in a function or class, such as a method that a change adds.
    """

    changes: tuple[Change, ...]
    imports: tuple[str, ...] = ()
    reads: Mapping[str, str] = MappingProxyType({})
    ignores: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    absent: Mapping[str, tuple[str, ...]] = MappingProxyType({})
