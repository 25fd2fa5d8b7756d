"""Patches of the user's own, after docs/writing-a-patch.md, whose examples this runs.

The first has the form of the guide of 0.1.0, with a `file` and a rewrite a release.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import MISSION, NBEATSX, ROOT, answer, false_record_rows, invoke, snapshot

GUIDE = ROOT / "docs" / "writing-a-patch.md"
MLP = "neuralforecast/models/mlp.py"
MULTIVARIATE = "neuralforecast/models/mlpmultivariate.py"


def block_of_the_guide(language: str, number: int = 0) -> str:
    """The blocks of code in this language, the first by default."""
    text = GUIDE.read_text(encoding="utf-8")
    return str(re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[number])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder with the guide's patch."""
    folder = tmp_path / "my-patches"
    folder.mkdir()
    (folder / "mlp_gate.py").write_text(block_of_the_guide("python"))
    return folder


def gate(path: Path) -> None:
    """Gives a file the layer that the guide's diff adds."""
    lines = block_of_the_guide("diff").splitlines(keepends=True)[3:]
    before, after = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


@pytest.fixture
def gated(site: Path) -> Path:
    """1.7.4 with that layer in MLP."""
    gate(site / MLP)
    return site


def test_the_guides_example_goes_all_the_way(gated: Path, own: Path) -> None:
    where = ("--patches", own, "--site-packages", gated)
    before = snapshot(gated)
    assert "mlp-gate" in invoke("list", "--patches", own).stdout
    (status,) = (patch for patch in answer("status", *where)["patches"] if patch["id"] == "mlp-gate")
    assert (status["state"], status["file"]) == ("modified", MLP)
    assert "no fingerprint" in status["reason"]

    refused = invoke("apply", "mlp-gate", *where)
    assert refused.exit_code == 3
    assert "--allow-modified" in refused.stderr
    assert snapshot(gated) == before
    shown = invoke("apply", "mlp-gate", "--allow-modified", "--dry-run", *where).stdout.splitlines()
    removed = [line for line in shown if line.startswith("-") and not line.startswith("---")]
    assert [line[1:].strip() for line in removed if line[1:].strip()] == [
        "# Gate of the first experiment",
        "self.gate = nn.Linear(in_features=hidden_size, out_features=hidden_size)",
    ]
    assert not [line for line in shown if line.startswith("+") and not line.startswith("+++")]

    assert answer("apply", "mlp-gate", "--allow-modified", *where)["changed"] == [MLP]
    assert false_record_rows(gated) == []
    assert answer("apply", "mlp-gate", *where)["changed"] == []
    assert answer("apply", *MISSION, *where)["changed"]
    assert answer("revert", "mlp-gate", *where)["changed"] == [MLP]
    assert b"self.gate" in (gated / MLP).read_bytes()
    assert answer("apply", "mlp-gate", "--allow-modified", *where)["changed"] == [MLP]
    assert len(answer("revert", "--site-packages", gated)["changed"]) == 3, "revert needs no --patches"
    assert snapshot(gated) == before


@pytest.fixture
def twice_gated(gated: Path) -> Path:
    """1.7.4 with that layer in MLP and MLPMultivariate."""
    path = gated / MULTIVARIATE
    line = "        self.mlp = nn.ModuleList(layers)\n"
    assert path.read_text().count(line) == 1
    added = "        self.gate = nn.Linear(in_features=hidden_size, out_features=hidden_size)\n"
    path.write_text(path.read_text().replace(line, f"{line}\n{added}"))
    return gated


@pytest.fixture
def own_of_two_files(tmp_path: Path) -> Path:
    """The folder with the guide's second patch."""
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "mlp_gates.py").write_text(block_of_the_guide("python", 1))
    return folder


def test_the_guides_patch_of_two_files_stands_as_a_whole(twice_gated: Path, own_of_two_files: Path) -> None:
    where = ("--patches", own_of_two_files, "--site-packages", twice_gated)
    before = snapshot(twice_gated)
    assert re.search(rf"files +{MLP}, {MULTIVARIATE}", invoke("list", "--patches", own_of_two_files).stdout)
    assert answer("apply", "mlp-gates", "--allow-modified", *where)["changed"] == [MLP, MULTIVARIATE]
    (status,) = (patch for patch in answer("status", *where)["patches"] if patch["id"] == "mlp-gates")
    assert (status["state"], status["file"], status["files"]) == ("applied", MLP, [MLP, MULTIVARIATE])
    assert b"self.gate" not in (twice_gated / MLP).read_bytes() + (twice_gated / MULTIVARIATE).read_bytes()
    assert false_record_rows(twice_gated) == []
    assert answer("revert", "mlp-gates", *where)["changed"] == [MLP, MULTIVARIATE]
    assert snapshot(twice_gated) == before


def test_where_one_of_two_files_does_not_fit_neither_is_written(gated: Path, own_of_two_files: Path) -> None:
    before = snapshot(gated)
    where = ("--patches", own_of_two_files, "--site-packages", gated)
    refused = invoke("apply", "mlp-gates", "--allow-modified", *where)
    assert refused.exit_code == 3
    assert MULTIVARIATE in refused.stderr
    assert snapshot(gated) == before


def test_two_patches_that_meet_are_refused_by_name(gated: Path, own: Path, tmp_path: Path) -> None:
    (own / "twin.py").write_text(block_of_the_guide("python").replace('"mlp-gate"', '"mlp-gate-twin"'))
    before = snapshot(gated)
    refused = invoke(
        "apply", "mlp-gate", "mlp-gate-twin", "--allow-modified", "--patches", own, "--site-packages", gated
    )
    assert refused.exit_code == 3
    assert "mlp-gate-twin changes what mlp-gate changes" in refused.stderr
    assert snapshot(gated) == before


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (('    file="neuralforecast/models/mlp.py",\n', ""), "does not say in which `file` its codemods belong"),
        (("    unaffected={", '    variants={"==1.7.4": len},\n    unaffected={'), "does not load: SyntaxError"),
        (("patch = Patch(", "patch = __import__('types').SimpleNamespace("), "defines no `patch = Patch(...)`"),
        (("patch = Patch(", "other = Patch("), "defines no `patch = Patch(...)`"),
        (('id="mlp-gate"', 'id="scaler-revin-windows"'), "Two patch modules call themselves 'scaler-revin-windows'"),
        (('    model="MLP",\n', ""), "does not load: TypeError"),
    ],
)
def test_a_module_that_is_no_patch_is_refused_with_the_reason(
    own: Path, site: Path, edit: tuple[str, str], words: str
) -> None:
    text = block_of_the_guide("python")
    assert edit[0] in text
    (own / "mlp_gate.py").write_text(text.replace(*edit))
    refused = invoke("status", "--patches", own, "--site-packages", site)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert words in refused.stderr


def test_a_variant_of_another_kind_is_refused(own: Path, site: Path) -> None:
    text = block_of_the_guide("python")
    (own / "mlp_gate.py").write_text(text + '\npatch = patch._replace(variants={"==1.7.4": len})\n')
    refused = invoke("status", "--patches", own, "--site-packages", site)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "has a variant that is no Rewrite, nor a Rewrite for each file" in refused.stderr


@pytest.mark.ddp
def test_the_guides_example_is_proved(gated: Path, own: Path, training_env: Path) -> None:
    where = ("--patches", own, "--python", training_env, "--site-packages", gated)
    document = answer("apply", "mlp-gate", "--allow-modified", "--prove", *where)
    assert document["changed"] == [MLP]
    fits = {(case["source"], case["strategy"]): case for case in document["proof"]["cases"] if case["patch"]}
    assert fits["original", "strict-ddp"]["unused_parameters"] == ["gate.weight", "gate.bias"]
    assert fits["preview", "strict-ddp"]["equal_to_like"] is True
    assert document["proof"]["ok"] is True


def test_an_own_patch_of_a_file_that_nfpatch_knows_lives_beside_nfpatchs_own(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    text = block_of_the_guide("python").replace("mlp-gate", "nbeatsx-h").replace("models/mlp.py", "models/nbeatsx.py")
    text = text.replace("MLP.__init__", "NBEATSx.forward")
    text = re.sub(r'old="[^"]*"', 'old="residuals = insample_y.flip(dims=(-1,))  # backcast init"', text)
    text = text.replace('new=""', "new=None").replace('reads={"gate": ""}', "reads={}")
    (folder / "own.py").write_text(text)
    where = ("--patches", folder, "--site-packages", site)
    before = snapshot(site)
    for patches in (("nbeatsx-unused-out",), ("nbeatsx-h", "--allow-modified")):
        assert invoke("apply", *patches, *where).exit_code == 0
    states = {patch["id"]: patch["state"] for patch in answer("status", *where)["patches"]}
    assert (states["nbeatsx-unused-out"], states["nbeatsx-h"]) == ("applied", "applied")
    assert b"self.out = nn.Linear" not in (site / NBEATSX).read_bytes()
    assert invoke("revert", "nbeatsx-unused-out", *where).exit_code == 0
    assert b"self.out = nn.Linear" in (site / NBEATSX).read_bytes()
    assert invoke("revert", *where).exit_code == 0
    assert snapshot(site) == before
