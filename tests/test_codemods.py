"""The codemods on files that are not quite the released ones: patched exactly, or refused with a reason."""

from __future__ import annotations

import difflib
from typing import Callable

import pytest
from releases import read_member
from support import NBEATSX, TFT

from nfpatch.catalog import load_catalog
from nfpatch.codemod import CodemodRefused, rewrite

Edit = Callable[[str], str]


def released(file: str, release: str = "1.7.4") -> str:
    source = read_member(release, file)
    assert source is not None
    return source.decode("utf-8")


def patched(file: str, source: bytes, release: str = "1.7.4") -> bytes:
    (patch,) = load_catalog().patches_of(file)
    codemod = patch.codemod_for(release)
    assert codemod is not None
    return rewrite(source, {patch.id: codemod})


def replaced(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert text.count(old) == 1, f"the test itself no longer fits: {old!r}"
        return text.replace(old, new)

    return edit


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
REMEDIES = {NBEATSX: (OUT_LAYER, ""), TFT: (ENCODER, GUARDED_ENCODER)}


@pytest.mark.parametrize("file", REMEDIES)
def test_the_released_file_changes_by_the_remedy_alone(file: str) -> None:
    text = released(file)
    assert patched(file, text.encode()).decode() == replaced(*REMEDIES[file])(text)


# Edits after which the code in question is still exactly what the codemod expects. Everything else keeps its bytes, so
# the edit and the remedy commute.
HARMLESS_EDITS: dict[str, Edit] = {
    "an edit elsewhere": lambda text: text.replace("import torch\n", "import torch  # pinned\nimport math\n", 1),
    "CRLF line ends": lambda text: text.replace("\n", "\r\n"),
    "CR line ends in a docstring": lambda text: text.replace('    """', '    """a\rb', 1),
    "a form feed": lambda text: text.replace("\nclass ", "\n\x0c\nclass ", 1),
    "no newline at the end": lambda text: text.rstrip("\n"),
    "trailing spaces": lambda text: text.replace("\n\n", "\n   \n").replace(",\n", ",  \n") + "\n\n",
    "a declared encoding": lambda text: "# -*- coding: utf-8 -*-\n" + text,
    "tabs": lambda text: text.replace("    ", "\t"),
    "odd indentation of two spaces": lambda text: text.replace("    ", "  "),
    "a subclass that does not touch the layer": lambda text: text + "\n\nclass Mine(TFT if 0 else object):\n    pass\n",
    "text beyond ASCII": lambda text: text + "\n# Überraschung 🎉\n",
}


@pytest.mark.parametrize("edit", HARMLESS_EDITS.values(), ids=HARMLESS_EDITS)
@pytest.mark.parametrize("file", REMEDIES)
def test_a_harmless_edit_stays_byte_for_byte(file: str, edit: Edit) -> None:
    text = released(file)
    assert patched(file, edit(text).encode()) == edit(replaced(*REMEDIES[file])(text)).encode()


@pytest.mark.parametrize("file", REMEDIES)
def test_a_byte_order_mark_stays(file: str) -> None:
    text = released(file)
    assert patched(file, text.encode("utf-8-sig")) == replaced(*REMEDIES[file])(text).encode("utf-8-sig")


@pytest.mark.parametrize("file", REMEDIES)
def test_a_file_in_another_declared_encoding_keeps_it(file: str) -> None:
    text = "# coding: latin-1\n" + released(file).encode("ascii", "ignore").decode() + "\n# Größe\n"
    assert patched(file, text.encode("latin-1")) == replaced(*REMEDIES[file])(text).encode("latin-1")


@pytest.mark.parametrize("file", REMEDIES)
def test_mixed_line_ends_stay_where_they_are(file: str) -> None:
    lines = released(file).splitlines(keepends=True)
    mixed = "".join(line.replace("\n", "\r\n") if number % 3 else line for number, line in enumerate(lines)).encode()
    result = patched(file, mixed)
    matcher = difflib.SequenceMatcher(None, mixed.splitlines(True), result.splitlines(True), autojunk=False)
    touched = [line for tag, a, b, _, _ in matcher.get_opcodes() if tag != "equal" for line in mixed.splitlines()[a:b]]
    assert {line.strip() for line in touched} <= {line.strip().encode() for line in REMEDIES[file][0].splitlines()}
    assert result.replace(b"\r\n", b"\n").decode() == replaced(*REMEDIES[file])(released(file))


FORMATTINGS: dict[str, tuple[str, str, str]] = {
    "black at a longer line": (
        TFT,
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
        TFT,
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
        TFT,
        "        # static covariates\n" + ENCODER,
        "        # static covariates\n" + GUARDED_ENCODER,
    ),
    "a condition in parentheses, on one line": (
        NBEATSX,
        """\

        # Adapter with Loss dependent dimensions
        if (self.loss.outputsize_multiplier>1):
            self.out = nn.Linear(in_features=h, out_features=h * self.loss.outputsize_multiplier)
""",
        "",
    ),
    "a comment of two lines, and one that belongs to something else": (
        NBEATSX,
        """\

        # Somebody's note on what follows in general

        # Adapter with Loss
        # dependent dimensions
        if self.loss.outputsize_multiplier > 1:  # never read
            # the layer
            self.out = nn.Linear(in_features=h, out_features=h * self.loss.outputsize_multiplier)
""",
        """\

        # Somebody's note on what follows in general
""",
    ),
    "a statement right below": (
        NBEATSX,
        OUT_LAYER + "        self.extra = 1\n",
        "\n        self.extra = 1\n",
    ),
    "a statement below, after a blank line": (
        NBEATSX,
        OUT_LAYER + "\n        self.extra = 1\n",
        "\n        self.extra = 1\n",
    ),
    "a comment at the end of the constructor": (
        NBEATSX,
        OUT_LAYER + "        # the end\n",
        "        # the end\n",
    ),
}


@pytest.mark.parametrize(("file", "before", "after"), FORMATTINGS.values(), ids=FORMATTINGS)
def test_other_formatting_of_the_same_code_is_patched_as_a_person_would(file: str, before: str, after: str) -> None:
    text = released(file)
    found = replaced(REMEDIES[file][0], before)(text)
    assert patched(file, found.encode()).decode() == replaced(REMEDIES[file][0], after)(text)


NEAR_MISSES: dict[str, tuple[str, Edit, str]] = {
    "the layer is read": (
        NBEATSX,
        replaced("        self.blocks = torch", "        self.width = self.out\n        self.blocks = torch"),
        "the attribute `out` is read in line 428",
    ),
    "the layer is read by a subclass": (
        NBEATSX,
        lambda text: text + "\n\nclass Mine(NBEATSx):\n    def forward(self, x):\n        return self.out(x)\n",
        "is read in line",
    ),
    "the layer is read through getattr": (
        NBEATSX,
        lambda text: text + "\n\ndef width(model):\n    return getattr(model, 'out').in_features\n",
        "is read in line",
    ),
    "the layer is read by its key in the state dict": (
        NBEATSX,
        lambda text: text + "\n\ndef width(model):\n    return model.state_dict()['out.weight'].shape\n",
        "is read in line",
    ),
    "the layer is read by an attrgetter": (
        NBEATSX,
        lambda text: text + "\n\nwidth = attrgetter('model.out')\n",
        "is read in line",
    ),
    "the layer is built twice": (
        NBEATSX,
        replaced(OUT_LAYER, OUT_LAYER + OUT_LAYER),
        "stands there 2 times, not once",
    ),
    "the layer is not built": (NBEATSX, replaced(OUT_LAYER, ""), "stands there no times, not once"),
    "the condition is another one": (
        NBEATSX,
        replaced("if self.loss.outputsize_multiplier > 1:", "if self.loss.outputsize_multiplier > 2:"),
        "is not the only statement under `if self.loss.outputsize_multiplier > 1:`",
    ),
    "there is an else": (
        NBEATSX,
        replaced(OUT_LAYER, OUT_LAYER + "        else:\n            self.flat = True\n"),
        "is not the only statement under",
    ),
    "more happens under the condition": (
        NBEATSX,
        replaced(OUT_LAYER, OUT_LAYER + "            self.flat = True\n"),
        "is not the only statement under",
    ),
    "the layer has two names": (
        NBEATSX,
        replaced("self.out = nn.Linear", "self.out = self.adapter = nn.Linear"),
        "is not the only statement under",
    ),
    "the class is renamed": (NBEATSX, replaced("class NBEATSx(", "class NBEATSxx("), "no classes named NBEATSx"),
    "the class stands there twice": (
        NBEATSX,
        lambda text: text + "\n\nclass NBEATSx:\n    pass\n",
        "2 classes named NBEATSx",
    ),
    "the class has no constructor": (
        TFT,
        replaced(
            "    def __init__(\n        self,\n        h,\n        input_size,\n        tgt_size",
            "    def init(\n        self,\n        h,\n        input_size,\n        tgt_size",
        ),
        "TFT has no `__init__`s",
    ),
    "a syntax error": (TFT, lambda text: text + "\ndef broken(:\n", "it does not parse"),
    "a last line of spaces, which LibCST does not keep": (
        TFT,
        lambda text: text + "\n  \n",
        "cannot reproduce it byte for byte",
    ),
    "a NUL byte": (TFT, lambda text: text + "\0", ""),
    "the encoder is guarded already": (
        TFT,
        replaced(ENCODER, GUARDED_ENCODER),
        "is not a plain statement of TFT.__init__",
    ),
    "the encoder is built twice": (TFT, replaced(ENCODER, ENCODER + ENCODER), "stands there 2 times"),
    "the encoder has another size": (
        TFT,
        replaced("num_static_vars=self.stat_exog_size", "num_static_vars=self.stat_exog_size + 1"),
        "is not built by `StaticCovariateEncoder(..., num_static_vars=self.stat_exog_size, ...)`",
    ),
    "the encoder is of another class": (
        TFT,
        replaced("self.static_encoder = StaticCovariateEncoder", "self.static_encoder = MyEncoder"),
        "is not built by",
    ),
    "the encoder is read without a look at the features": (
        TFT,
        replaced("        if s_inp is not None:", "        if True:"),
        "is read in line 563, outside `if s_inp is not None:`",
    ),
    "the encoder is read in the else branch": (
        TFT,
        replaced("            # If None add zeros\n", "            self.static_encoder(s_inp)\n"),
        "is read in line",
    ),
}


@pytest.mark.parametrize(("file", "edit", "reason"), NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_a_near_miss_is_refused_with_the_reason(file: str, edit: Edit, reason: str) -> None:
    with pytest.raises(CodemodRefused) as refusal:
        patched(file, edit(released(file)).encode())
    assert reason in str(refusal.value)


def test_bytes_that_do_not_decode_are_refused() -> None:
    with pytest.raises(CodemodRefused, match=r"cannot be decoded|does not parse"):
        patched(TFT, released(TFT).encode() + b"# \xff\n")


def test_the_used_layer_of_1_1_0_is_refused_by_the_codemod_itself() -> None:
    with pytest.raises(CodemodRefused, match="the attribute `out` is read in line 347"):
        patched(NBEATSX, released(NBEATSX, "1.1.0").encode())
