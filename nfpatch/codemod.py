"""The language of patches: statements as they are in neuralforecast, and the statements that replace them.

A codemod states what it expects and is refused unless it finds exactly that: the statements, once, in the named
function, and no other use of what it removes. All other bytes of the file stay as they are. This module has only the
data types; `nfpatch.patching.rewriting` turns them into edits.

Types that every command imports are named tuples: defining a dataclass takes seven times as long, and `benchmarks/`
limits the commands to a small multiple of the time of `import click`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Optional

from nfpatch.errors import RefusedError

# The package inside neuralforecast that holds the runtime modules of the applied patches.
RUNTIME_PACKAGE = "neuralforecast._nfpatch"


class CodemodRefused(RefusedError):
    """The source is not what the codemod expects. The message is a clause that says what differs."""


class Change(NamedTuple):
    """Consecutive statements and their replacement.

    `where` is the function or class that contains the statements directly: `TFT.__init__`, or `TFT` for a method
    itself; the empty string is the module. If they are nested in compound statements, `inside` quotes the headers of
    these, outermost first: `('if step == "train":', "else:")` is the `else` branch of that `if`.

    `old` is the source of the statements, which must occur there exactly once. Spaces, line breaks, parentheses and
    comments may differ; `...` as the body of a compound statement matches any body. `new` is the replacement: what it
    has in common with `old` keeps its bytes. The empty string removes the statements and the comment above them. None
    leaves them unchanged, so that the change only states an expectation.
    """

    where: str
    old: str
    new: Optional[str] = None
    inside: tuple[str, ...] = ()


class Rewrite(NamedTuple):
    """The changes of one file, with conditions on the rest of it.

    Each change is located in the original file, independently of the other changes. `imports` names the runtime modules
    that the changes call: each is imported from `RUNTIME_PACKAGE` by a line before the file's first import. Patches
    that import the same module share this line.

    `guarded_attributes` names the attributes that the patch freezes, removes or creates only sometimes, with the
    condition under which the module may still read them: `{"static_encoder": "s_inp is not None"}`, or the empty string
    for never. Each must be assigned exactly once. Any mention in the module counts as a read, including the name in a
    `getattr`: NBEATSx of neuralforecast 1.1.0 has the same lines as later releases, and its `forward` uses the layer.
    Two mentions do not count: `X.requires_grad_(False)`, and statements that a change quotes as an expectation.

    `unused_arguments` names, for each function, parameters that it must not use. `absent` has, for each function or
    class, statements that it must not contain, such as a method that a change adds.
    """

    changes: tuple[Change, ...]
    imports: tuple[str, ...] = ()
    guarded_attributes: Mapping[str, str] = MappingProxyType({})
    unused_arguments: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    absent: Mapping[str, tuple[str, ...]] = MappingProxyType({})
