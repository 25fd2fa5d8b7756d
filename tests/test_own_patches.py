"""User patches, with the examples of docs/how-to/writing-a-patch.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import (
    MISSION,
    NBEATSX,
    ROOT,
    TORCHRUN,
    answer,
    environment,
    false_record_rows,
    invoke,
    run_ranks,
    snapshot,
    unlisted_files,
)

GUIDE = ROOT / "docs" / "how-to" / "writing-a-patch.md"
MLP = "neuralforecast/models/mlp.py"
MODEL = "neuralforecast/common/_base_model.py"


def block_of_the_guide(language: str, number: int = 0) -> str:
    """A block of code in this language, the first by default."""
    text = GUIDE.read_text(encoding="utf-8")
    return str(re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[number])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder with the guide's patch."""
    folder = tmp_path / "my-patches"
    folder.mkdir()
    (folder / "mlp_gate.py").write_text(block_of_the_guide("python"))
    return folder


def add_gate(path: Path) -> None:
    """Add the layer of the guide's diff to a file."""
    lines = block_of_the_guide("diff").splitlines(keepends=True)[3:]
    before, after = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


@pytest.fixture
def gated(site: Path) -> Path:
    """1.7.4 with that layer in MLP."""
    add_gate(site / MLP)
    return site


def test_the_guides_example_can_be_applied_and_reverted(gated: Path, own: Path) -> None:
    where = ("--patches", own, "--site-packages", gated)
    before = snapshot(gated)
    assert "mlp-gate" in invoke("list", "--patches", own).stdout
    (status,) = (patch for patch in answer("status", *where)["patches"] if patch["id"] == "mlp-gate")
    assert (status["state"], status["files"]) == ("modified", [MLP])

    refused = invoke("apply", "mlp-gate", *where)
    assert refused.exit_code == 3
    assert "--allow-modified" in refused.stderr
    assert snapshot(gated) == before
    shown = invoke("apply", "mlp-gate", "--allow-modified", "--dry-run", *where).stdout.splitlines()
    added = [line[1:].strip() for line in shown if line.startswith("+") and not line.startswith("+++")]
    assert [line for line in added if line] == ["self.gate.requires_grad_(False)"]
    assert not [line for line in shown if line.startswith("-") and not line.startswith("---")]

    assert answer("apply", "mlp-gate", "--allow-modified", *where)["changed"] == [MLP]
    assert false_record_rows(gated) == []
    assert answer("apply", "mlp-gate", *where)["changed"] == []
    assert answer("apply", *MISSION, *where)["changed"]
    assert answer("revert", "mlp-gate", *where)["changed"] == [MLP]
    assert b"self.gate.requires_grad_" not in (gated / MLP).read_bytes()
    assert answer("apply", "mlp-gate", "--allow-modified", *where)["changed"] == [MLP]
    assert len(answer("revert", "--site-packages", gated)["changed"]) == 3, "`revert` needs no --patches"
    assert snapshot(gated) == before


@pytest.fixture
def own_module(tmp_path: Path) -> Path:
    """The folder with the guide's second patch, and its runtime module."""
    folder = tmp_path / "world"
    (folder / "runtime").mkdir(parents=True)
    (folder / "runtime" / "world.py").write_text(block_of_the_guide("python", 1))
    (folder / "world_size.py").write_text(block_of_the_guide("python", 2))
    return folder


def test_the_guides_runtime_module_is_added_and_removed_with_its_patch(site: Path, own_module: Path) -> None:
    where = ("--patches", own_module, "--site-packages", site)
    before = snapshot(site)
    added = [f"neuralforecast/_nfpatch/{name}.py" for name in ("__init__", "ranks", "world")]
    assert answer("apply", "world-size-metric", "--allow-modified", *where)["changed"] == sorted([*added, MODEL])
    assert b"from neuralforecast._nfpatch import world\n" in (site / MODEL).read_bytes()
    assert b"world.record_world_size(model)\n" in (site / MODEL).read_bytes()
    (status,) = (patch for patch in answer("status", *where)["patches"] if patch["id"] == "world-size-metric")
    assert (status["state"], status["group"]) == ("applied", "our-own")
    assert (false_record_rows(site), unlisted_files(site)) == ([], [])

    with (own_module / "runtime" / "world.py").open("a") as module:
        module.write("# another version\n")
    (status,) = (patch for patch in answer("status", *where)["patches"] if patch["id"] == "world-size-metric")
    assert status["state"] == "outdated"
    assert answer("apply", "world-size-metric", "--allow-modified", *where)["changed"] == [added[-1]]
    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before


@pytest.mark.ddp
def test_the_guides_runtime_module_records_the_world_size(
    site: Path, own_module: Path, training_env: Path, tmp_path: Path
) -> None:
    where = ("--patches", own_module, "--site-packages", site)
    assert invoke("apply", "world-size-metric", "--allow-modified", *where).exit_code == 0
    script = tmp_path / "script.py"
    script.write_text(WORLD_SCRIPT)
    for launcher, size in (((), 1), (TORCHRUN, 2)):
        out = tmp_path / f"out-{size}"
        code, results, output = run_ranks([training_env, *launcher, script, size], out, environment(site))
        assert (code, results) == (0, [size] * size), output[-2000:]


WORLD_SCRIPT = """
import json, os, sys
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel

size = int(sys.argv[1])
trainer = {"devices": size, "strategy": "ddp"} if size > 1 else {}
model = NHITS(h=12, input_size=24, max_steps=2, mlp_units=[[8, 8]] * 3, accelerator="cpu", logger=False, **trainer)
forecaster = NeuralForecast(models=[model], freq="M")
forecaster.fit(df=AirPassengersPanel[["unique_id", "ds", "y"]])
with open(f"rank-{os.environ.get('RANK', 0)}.json", "w") as file:
    json.dump(forecaster.models[0].metrics["world_size"], file)
"""


def test_two_conflicting_user_patches_are_refused_by_name(gated: Path, own: Path, tmp_path: Path) -> None:
    (own / "twin.py").write_text(block_of_the_guide("python").replace('"mlp-gate"', '"mlp-gate-twin"'))
    before = snapshot(gated)
    refused = invoke(
        "apply", "mlp-gate", "mlp-gate-twin", "--allow-modified", "--patches", own, "--site-packages", gated
    )
    assert refused.exit_code == 3
    assert "mlp-gate-twin" in refused.stderr
    assert snapshot(gated) == before


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (("    unaffected={", '    variants={"==1.7.4": len},\n    unaffected={'), "SyntaxError"),
        (("patch = Patch(", "patch = __import__('types').SimpleNamespace("), "`patch = Patch(...)`"),
        (("patch = Patch(", "other = Patch("), "`patch = Patch(...)`"),
        (('id="mlp-gate"', 'id="scaler-revin"'), "'scaler-revin'"),
        (('    model="MLP",\n', ""), "TypeError"),
    ],
)
def test_a_module_without_a_valid_patch_is_a_usage_error(
    own: Path, site: Path, edit: tuple[str, str], cause: str
) -> None:
    text = block_of_the_guide("python")
    assert edit[0] in text
    (own / "mlp_gate.py").write_text(text.replace(*edit))
    refused = invoke("status", "--patches", own, "--site-packages", site)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert cause in refused.stderr


def test_a_variant_of_another_type_is_a_usage_error(own: Path, site: Path) -> None:
    text = block_of_the_guide("python")
    (own / "mlp_gate.py").write_text(text + '\npatch = patch._replace(variants={"==1.7.4": len})\n')
    refused = invoke("status", "--patches", own, "--site-packages", site)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "mlp-gate" in refused.stderr


@pytest.mark.ddp
def test_the_guides_example_passes_its_proof(gated: Path, own: Path, training_env: Path) -> None:
    where = ("--patches", own, "--python", training_env, "--site-packages", gated)
    document = answer("apply", "mlp-gate", "--allow-modified", "--prove", *where)
    assert document["changed"] == [MLP]
    fits = {(case["source"], case["strategy"]): case for case in document["proof"]["cases"] if case["patch"]}
    assert fits["released", "strict-ddp"]["unused_parameters"] == ["gate.weight", "gate.bias"]
    assert fits["patched", "strict-ddp"]["matches_reference"] is True
    assert document["proof"]["ok"] is True


def test_a_users_patch_can_share_a_file_with_a_shipped_patch(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    text = block_of_the_guide("python").replace("mlp-gate", "nbeatsx-h").replace("models/mlp.py", "models/nbeatsx.py")
    text = text.replace("MLP.__init__", "NBEATSx.forward")
    text = re.sub(
        r"^BUILD = .*$", 'BUILD = "residuals = insample_y.flip(dims=(-1,))  # backcast init"', text, flags=re.M
    )
    text = re.sub(r"new=f[^)]*\)\"", "new=None", text).replace(
        'guarded_attributes={"gate": ""}', "guarded_attributes={}"
    )
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
