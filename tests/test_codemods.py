"""The codemods on released and on edited files: exactly the expected edits, or refused with a reason."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Callable

import pytest
from releases import RELEASES, read_member
from support import NBEATSX, ROOT, TFT

from nfpatch.catalog import Patch, load_catalog
from nfpatch.codemod import CodemodRefused
from nfpatch.console import unified_diff
from nfpatch.patching.rewriting import rewritten

Edit = Callable[[str], str]


def released(file: str, release: str = "1.7.4") -> str:
    source = read_member(release, file)
    assert source is not None
    return source.decode("utf-8")


def patched(patch_id: str, source: bytes, release: str = "") -> bytes:
    (patch,) = load_catalog().select([patch_id])
    (rewrite,) = load_catalog().rewrites_for(patch, release or EXPECTED[patch_id].release).values()
    return rewritten(source, {patch_id: rewrite})


def replaced(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert text.count(old) == 1, f"the test is out of date: {old!r}"
        return text.replace(old, new)

    return edit


@dataclass(frozen=True)
class ExpectedEdits:
    """The edits that a patch makes to a file of a release."""

    release: str
    file: str
    edits: tuple[tuple[str, str], ...]

    def __call__(self, text: str) -> str:
        for old, new in self.edits:
            text = replaced(old, new)(text)
        return text

    @property
    def text(self) -> str:
        """The file as released."""
        return released(self.file, self.release)

    @property
    def touched_lines(self) -> set[str]:
        """The lines that are removed or moved, without their indentation."""
        return {line.strip() for old, _ in self.edits for line in old.splitlines()}


OUT_LAYER = """\

        # Adapter with Loss dependent dimensions
        if self.loss.outputsize_multiplier > 1:
            self.out = nn.Linear(
                in_features=h, out_features=h * self.loss.outputsize_multiplier
            )
"""
ENCODER = """\
        self.static_encoder = StaticCovariateEncoder(
            hidden_size=hidden_size,
            num_static_vars=self.stat_exog_size,
            dropout=dropout,
        )
"""
GUARDED_ENCODER = """\
        if self.stat_exog_size > 0:
            self.static_encoder = StaticCovariateEncoder(
                hidden_size=hidden_size,
                num_static_vars=self.stat_exog_size,
                dropout=dropout,
            )
"""
FIRST_IMPORT = "from typing import Optional\n"
RANKS = "from neuralforecast._nfpatch import ranks\n"
VALUE_LAYER = "        self.value_projection = nn.Linear(hidden_size, d_values * n_head)\n"
FROZEN_PROJECTIONS = """\
        self.value_projection.requires_grad_(False)
        if not isinstance(correlation, FourierCrossAttention):
            self.key_projection.requires_grad_(False)
"""
SHORT_CUT = "        self.backcast_short_cut = nn.Linear(self.time_step, self.time_step)\n"
HEAD = "def __init__(self, hidden_size, num_inputs, dropout, grn_activation{}):\n"
FROZEN_SHORT_CUT = """\
        if self.stack_cnt != 0:
            self.backcast_short_cut.requires_grad_(False)
"""
STATIC_VSN = """\
            num_inputs=num_static_vars,
            dropout=dropout,
            grn_activation=grn_activation,
        )
"""
FROZEN_CONTEXT = """\
        # it gets no context
        self.vsn.joint_grn.lin_c.requires_grad_(False)
"""

EXPECTED = {
    "nbeatsx-unused-out": ExpectedEdits("1.7.4", NBEATSX, ((OUT_LAYER, ""),)),
    "tft-static-encoder": ExpectedEdits("1.7.4", TFT, ((ENCODER, GUARDED_ENCODER),)),
    "tft-static-context": ExpectedEdits("3.3.0", TFT, ((STATIC_VSN, STATIC_VSN + FROZEN_CONTEXT),)),
    "stemgnn-backcast": ExpectedEdits(
        "3.3.0", "neuralforecast/models/stemgnn.py", ((SHORT_CUT, SHORT_CUT + FROZEN_SHORT_CUT),)
    ),
    "softssharp-position-scale": ExpectedEdits(
        "3.3.0",
        "neuralforecast/models/softssharp.py",
        (
            (FIRST_IMPORT, RANKS + FIRST_IMPORT),
            (
                "            return input\n",
                "            return ranks.with_zero_gradient(input, self.pe_scale)\n",
            ),
        ),
    ),
    "fedformer-projections": ExpectedEdits(
        "3.3.0", "neuralforecast/models/fedformer.py", ((VALUE_LAYER, VALUE_LAYER + FROZEN_PROJECTIONS),)
    ),
}
# One of each kind: statements removed, guarded, added, added with a condition; a nested one replaced.
KINDS = [*EXPECTED][:5]


@pytest.mark.parametrize(
    "patch", [p for p in load_catalog().patches if load_catalog().files_of(p, RELEASES[-1])], ids=lambda p: p.id
)
def test_the_upstream_issue_has_a_script_and_a_diff_of_the_newest_release(patch: Patch) -> None:
    issue = (ROOT / "docs" / "upstream" / f"{patch.id}.md").read_text(encoding="utf-8")
    compile(issue.partition("```python\n")[2].partition("```")[0], "reproduction", "exec")
    rewrites = load_catalog().rewrites_for(patch, RELEASES[-1])
    shown = issue.partition("```diff\n")[2].partition("```\n")[0]
    if any(rewrite.imports for rewrite in rewrites.values()):  # upstream's diff cannot have hooks of nfpatch
        text = "".join(released(file, RELEASES[-1]) for file in rewrites)
        for hunk in re.split(r"^@@.*\n", shown, flags=re.MULTILINE)[1:]:
            old = [line[1:] for line in hunk.splitlines(keepends=True) if re.match("[ -](?!-- )", line)]
            assert "".join(old) in text
        return
    diff = []
    for file, rewrite in rewrites.items():
        before = released(file, RELEASES[-1]).encode()
        diff += unified_diff(file, before, rewritten(before, {patch.id: rewrite}))
    assert shown == "".join(diff)


@pytest.mark.parametrize("patch_id", EXPECTED)
def test_a_released_file_gets_exactly_the_expected_edits(patch_id: str) -> None:
    expected = EXPECTED[patch_id]
    assert patched(patch_id, expected.text.encode()).decode() == expected(expected.text)


# Edits elsewhere in a file, all bytes of which must be kept: the edit and the patch commute.
UNRELATED_EDITS: dict[str, Edit] = {
    "an edit elsewhere": lambda text: text.replace("import torch\n", "import torch  # pinned\nimport math\n", 1),
    "CRLF line endings": lambda text: text.replace("\n", "\r\n"),
    "CR line endings in a docstring": lambda text: text.replace('    """', '    """a\rb', 1),
    "a form feed": lambda text: text.replace("\nclass ", "\n\x0c\nclass ", 1),
    "no newline at the end": lambda text: text.rstrip("\n"),
    "trailing spaces": lambda text: text.replace("\n\n", "\n   \n").replace(",\n", ",  \n") + "\n\n",
    "a declared encoding": lambda text: "# -*- coding: utf-8 -*-\n" + text,
    "tabs": lambda text: text.replace("    ", "\t"),
    "odd indentation of two spaces": lambda text: text.replace("    ", "  "),
    "a subclass that does not touch the layer": lambda text: text + "\n\nclass Mine(TFT if 0 else object):\n    pass\n",
    "a last line of spaces, which LibCST drops": lambda text: text + "\n  \n",
    "text beyond ASCII": lambda text: text + "\n# Überraschung 🎉\n",
}


@pytest.mark.parametrize("edit", UNRELATED_EDITS.values(), ids=UNRELATED_EDITS)
@pytest.mark.parametrize("patch_id", KINDS)
def test_an_unrelated_edit_is_kept_byte_for_byte(patch_id: str, edit: Edit) -> None:
    expected = EXPECTED[patch_id]
    assert patched(patch_id, edit(expected.text).encode()).decode() == edit(expected(expected.text))


@pytest.mark.parametrize("patch_id", KINDS)
def test_a_byte_order_mark_is_kept(patch_id: str) -> None:
    expected = EXPECTED[patch_id]
    assert patched(patch_id, expected.text.encode("utf-8-sig")) == expected(expected.text).encode("utf-8-sig")


@pytest.mark.parametrize("patch_id", KINDS)
def test_a_file_in_another_declared_encoding_keeps_it(patch_id: str) -> None:
    expected = EXPECTED[patch_id]
    text = "# coding: latin-1\n" + expected.text.encode("ascii", "ignore").decode() + "\n# Größe\n"
    assert patched(patch_id, text.encode("latin-1")) == expected(text).encode("latin-1")


@pytest.mark.parametrize("patch_id", KINDS)
def test_mixed_line_endings_are_kept(patch_id: str) -> None:
    expected = EXPECTED[patch_id]
    lines = expected.text.splitlines(keepends=True)
    mixed = "".join(line.replace("\n", "\r\n") if number % 3 else line for number, line in enumerate(lines)).encode()
    result = patched(patch_id, mixed)
    matcher = difflib.SequenceMatcher(None, mixed.splitlines(True), result.splitlines(True), autojunk=False)
    touched = [line for tag, a, b, _, _ in matcher.get_opcodes() if tag != "equal" for line in mixed.splitlines()[a:b]]
    assert {line.strip().decode() for line in touched} <= expected.touched_lines
    assert result.replace(b"\r\n", b"\n").decode() == expected(expected.text)


BUILT_OUT, BUILT_ENCODER = "nbeatsx-unused-out", "tft-static-encoder"
FORMATTINGS: dict[str, tuple[str, str, str]] = {
    "black with a longer line": (
        BUILT_ENCODER,
        """\
        self.static_encoder = StaticCovariateEncoder(
            hidden_size=hidden_size, num_static_vars=self.stat_exog_size, dropout=dropout
        )
""",
        """\
        if self.stat_exog_size > 0:
            self.static_encoder = StaticCovariateEncoder(
                hidden_size=hidden_size, num_static_vars=self.stat_exog_size, dropout=dropout
            )
""",
    ),
    "arguments in columns": (
        BUILT_ENCODER,
        """\
        self.static_encoder = StaticCovariateEncoder(hidden_size=hidden_size,
                                                     num_static_vars = self.stat_exog_size,  # how many
                                                     dropout=dropout)  # the encoder
""",
        """\
        if self.stat_exog_size > 0:
            self.static_encoder = StaticCovariateEncoder(hidden_size=hidden_size,
                                                         num_static_vars = self.stat_exog_size,  # how many
                                                         dropout=dropout)  # the encoder
""",
    ),
    "a comment above": (
        BUILT_ENCODER,
        "        # static covariates\n" + ENCODER,
        "        # static covariates\n" + GUARDED_ENCODER,
    ),
    "a condition in parentheses, on one line": (
        BUILT_OUT,
        """\

        # Adapter with Loss dependent dimensions
        if (self.loss.outputsize_multiplier>1):
            self.out = nn.Linear(in_features=h, out_features=h * self.loss.outputsize_multiplier)
""",
        "",
    ),
    "a comment of two lines, and one of the section": (
        BUILT_OUT,
        """\

        # A comment on the section

        # Adapter with Loss
        # dependent dimensions
        if self.loss.outputsize_multiplier > 1:  # never read
            # the layer
            self.out = nn.Linear(in_features=h, out_features=h * self.loss.outputsize_multiplier)
""",
        """\

        # A comment on the section
""",
    ),
    "a statement right below": (
        BUILT_OUT,
        OUT_LAYER + "        self.extra = 1\n",
        "\n        self.extra = 1\n",
    ),
    "a statement below, after a blank line": (
        BUILT_OUT,
        OUT_LAYER + "\n        self.extra = 1\n",
        "\n        self.extra = 1\n",
    ),
    "a comment at the end of the constructor": (
        BUILT_OUT,
        OUT_LAYER + "        # the end\n",
        "        # the end\n",
    ),
}


@pytest.mark.parametrize(("patch_id", "before", "after"), FORMATTINGS.values(), ids=FORMATTINGS)
def test_other_formatting_of_the_same_code_is_patched_and_kept(patch_id: str, before: str, after: str) -> None:
    expected = EXPECTED[patch_id]
    ((code, _),) = expected.edits
    found = replaced(code, before)(expected.text)
    assert patched(patch_id, found.encode()).decode() == replaced(code, after)(expected.text)


NEAR_MISSES: dict[str, tuple[str, Edit, str]] = {
    "the layer is read": (
        BUILT_OUT,
        replaced("        self.blocks = torch", "        self.width = self.out\n        self.blocks = torch"),
        "line 428",
    ),
    "the layer is read by a subclass": (
        BUILT_OUT,
        lambda text: text + "\n\nclass Mine(NBEATSx):\n    def forward(self, x):\n        return self.out(x)\n",
        "line",
    ),
    "the layer is read through getattr": (
        BUILT_OUT,
        lambda text: text + "\n\ndef width(model):\n    return getattr(model, 'out').in_features\n",
        "line",
    ),
    "the layer is read by its key in the state dict": (
        BUILT_OUT,
        lambda text: text + "\n\ndef width(model):\n    return model.state_dict()['out.weight'].shape\n",
        "line",
    ),
    "the layer is read by a name that is equal after Unicode normalization": (
        BUILT_OUT,
        lambda text: (
            text + "\n\ndef width(model):\n    return model.\N{FULLWIDTH LATIN SMALL LETTER O}ut.in_features\n"
        ),
        "line",
    ),
    "the layer is read through a string with an escape": (
        BUILT_OUT,
        lambda text: text + "\n\ndef width(model):\n    return getattr(model, 'o\\x75t').in_features\n",
        "line",
    ),
    "the layer is read by an attrgetter": (
        BUILT_OUT,
        lambda text: text + "\n\nwidth = attrgetter('model.out')\n",
        "line",
    ),
    "the layer is built twice": (
        BUILT_OUT,
        replaced(OUT_LAYER, OUT_LAYER + OUT_LAYER),
        "2 times",
    ),
    "the layer is not built": (BUILT_OUT, replaced(OUT_LAYER, ""), "0 times"),
    "another condition": (
        BUILT_OUT,
        replaced("if self.loss.outputsize_multiplier > 1:", "if self.loss.outputsize_multiplier > 2:"),
        "NBEATSx.__init__",
    ),
    "there is an else": (
        BUILT_OUT,
        replaced(OUT_LAYER, OUT_LAYER + "        else:\n            self.flat = True\n"),
        "NBEATSx.__init__",
    ),
    "another statement under the condition": (
        BUILT_OUT,
        replaced(OUT_LAYER, OUT_LAYER + "            self.flat = True\n"),
        "NBEATSx.__init__",
    ),
    "the layer has two names": (
        BUILT_OUT,
        replaced("self.out = nn.Linear", "self.out = self.adapter = nn.Linear"),
        "NBEATSx.__init__",
    ),
    "the class is renamed": (
        BUILT_OUT,
        replaced("class NBEATSx(", "class NBEATSxx("),
        "`NBEATSx` 0 times",
    ),
    "the class is there twice": (
        BUILT_OUT,
        lambda text: text + "\n\nclass NBEATSx:\n    pass\n",
        "`NBEATSx` 2 times",
    ),
    "the class has no constructor": (
        BUILT_ENCODER,
        replaced(
            "    def __init__(\n        self,\n        h,\n        input_size,\n        tgt_size",
            "    def init(\n        self,\n        h,\n        input_size,\n        tgt_size",
        ),
        "`__init__` 0 times",
    ),
    "a syntax error": (BUILT_ENCODER, lambda text: text + "\ndef broken(:\n", "parse"),
    "a NUL byte": (BUILT_ENCODER, lambda text: text + "\0", ""),
    "the encoder is guarded already": (
        BUILT_ENCODER,
        replaced(ENCODER, GUARDED_ENCODER),
        "TFT.__init__",
    ),
    "the encoder is built twice": (BUILT_ENCODER, replaced(ENCODER, ENCODER + ENCODER), "2 times"),
    "the encoder has another size": (
        BUILT_ENCODER,
        replaced("num_static_vars=self.stat_exog_size", "num_static_vars=self.stat_exog_size + 1"),
        "TFT.__init__",
    ),
    "the encoder is of another class": (
        BUILT_ENCODER,
        replaced("self.static_encoder = StaticCovariateEncoder", "self.static_encoder = MyEncoder"),
        "TFT.__init__",
    ),
    "the encoder is read without the condition": (
        BUILT_ENCODER,
        replaced("        if s_inp is not None:", "        if True:"),
        "line 563",
    ),
    "the context layer is used without the condition": (
        "tft-static-context",
        replaced("        if c is not None:\n", "        if True:\n"),
        "line 82",
    ),
    "the static network gets a context": (
        "tft-static-context",
        replaced("self.vsn(x)", "self.vsn(x, x[:, 0])"),
        "StaticCovariateEncoder.forward",
    ),
    "the network builds no context layer": (
        "tft-static-context",
        replaced(
            "output_size=num_inputs,\n            context_hidden_size=hidden_size,\n", "output_size=num_inputs,\n"
        ),
        "VariableSelectionNetwork.__init__",
    ),
    "the shortcut is built under a condition": (
        "stemgnn-backcast",
        replaced(SHORT_CUT, "    " + SHORT_CUT),
        "StockBlockLayer.__init__",
    ),
    "the shortcut is used in any block": (
        "stemgnn-backcast",
        replaced("        self.relu = nn.ReLU()\n", "        self.relu = self.backcast_short_cut\n"),
        "line 55",
    ),
    "a projection is used elsewhere": (
        "fedformer-projections",
        replaced(
            "        return self.out_projection(out), attn\n", "        return self.value_projection(out), attn\n"
        ),
        "line 65",
    ),
    "a Fourier layer reads the values": (
        "fedformer-projections",
        replaced("        # xv = v.permute(0, 2, 3, 1)\n", "        xv = v.permute(0, 2, 3, 1)\n"),
        "line 352",
    ),
    "another random draw": (
        "softssharp-position-scale",
        replaced("torch.rand(1, device=input.device).item()", "torch.rand(()).item()"),
        "STADSharp.add_positional_embedding",
    ),
    "the encoder is read in the else branch": (
        BUILT_ENCODER,
        replaced("            # If None add zeros\n", "            self.static_encoder(s_inp)\n"),
        "line",
    ),
}


@pytest.mark.parametrize(("patch_id", "edit", "reason"), NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_a_near_miss_is_refused_with_the_reason(patch_id: str, edit: Edit, reason: str) -> None:
    with pytest.raises(CodemodRefused) as refusal:
        patched(patch_id, edit(EXPECTED[patch_id].text).encode())
    assert reason in str(refusal.value)


def test_bytes_that_do_not_decode_are_refused() -> None:
    with pytest.raises(CodemodRefused, match=r"decoded|parse"):
        patched(BUILT_ENCODER, released(TFT).encode() + b"# \xff\n")


def test_the_used_layer_of_1_1_0_is_refused_by_the_codemod_itself() -> None:
    with pytest.raises(CodemodRefused, match="line 347"):
        patched(BUILT_OUT, released(NBEATSX, "1.1.0").encode(), "1.7.4")
