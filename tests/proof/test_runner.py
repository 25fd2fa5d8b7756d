"""The proof itself: real processes, real DDP, and an orderly end whatever happens to them."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfpatch.catalog import Case
from nfpatch.proof.overlay import build_overlay
from nfpatch.proof.probe import probe
from nfpatch.proof.runner import CaseResult, ProofCase, ProofEvent, ProofReport, run_proof

pytestmark = [
    pytest.mark.ddp,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by /proc"),
]

STATIC_ENCODER = ("static_encoder.*",)
OUT = ("out.weight", "out.bias")
SMALL = {"windows_batch_size": 16, "mlp_units": [[8, 8]] * 3}
TFT = Case("TFT", "no static features", options={"windows_batch_size": 16, "hidden_size": 8, "n_head": 2})
NBEATSX = Case("NBEATSx", "MQLoss", loss="MQLoss", options=SMALL)
NHITS = Case("NHITS", "MQLoss, all exogenous", "MQLoss", ("static", "historic", "future"), SMALL)

MARK = "NFPATCH_TEST"


@pytest.fixture(scope="module")
def package(training_env: Path) -> Path:
    site_packages = probe(training_env).neuralforecast
    assert site_packages is not None
    return site_packages / "neuralforecast"


def healed(package: Path) -> dict[str, bytes]:
    """The two files of neuralforecast 1.7.4 as a person would heal them."""
    nbeatsx = (package / "models/nbeatsx.py").read_text()
    begin = nbeatsx.index(
        "        # Adapter with Loss dependent dimensions\n        if self.loss.outputsize_multiplier > 1:"
    )
    end = nbeatsx.index("    def create_stack(")
    tft = (package / "models/tft.py").read_text()
    call = tft[tft.index("        self.static_encoder = ") : tft.index("        self.temporal_encoder = ")]
    guarded = "        if self.stat_exog_size > 0:\n" + call.replace("        ", "            ", 1).replace(
        "\n  ", "\n      "
    )
    return {
        "neuralforecast/models/nbeatsx.py": (nbeatsx[:begin] + "\n" + nbeatsx[end:]).encode(),
        "neuralforecast/models/tft.py": tft.replace(call, guarded).encode(),
    }


def sleeping(package: Path) -> dict[str, bytes]:
    """An NHITS whose first training step does not come to an end."""
    nhits = (package / "models/nhits.py").read_text()
    signature = "    def forward(self, windows_batch):\n"
    assert nhits.count(signature) == 1
    planted = nhits.replace(signature, signature + "        import time; time.sleep(3600)\n")
    return {"neuralforecast/models/nhits.py": planted.encode()}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def temporary_folders() -> set[Path]:
    return {path for pattern in ("nfpatch-*", "torchelastic_*") for path in Path(tempfile.gettempdir()).glob(pattern)}


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """What every process that the test starts, and no other, carries in its environment."""
    mark = str(uuid.uuid4())
    monkeypatch.setenv(MARK, mark)
    return mark


def processes_with(mark: str, *others: str) -> set[int]:
    """The processes that a test started, as far as they also carry these settings."""
    wanted = {setting.encode() for setting in (f"{MARK}={mark}", *others)}
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= set(environ.read_bytes().split(b"\0")):
                found.add(int(environ.parent.name))
        except OSError:  # ended in the meantime, or another user's
            continue
    return found


CASES = (
    ProofCase("nbeatsx-red", "nbeatsx-unused-out", NBEATSX, "original", "unused-parameters", OUT),
    ProofCase("nbeatsx-green", "nbeatsx-unused-out", NBEATSX, "preview", "pass", OUT),
    ProofCase("tft-red", "tft-static-encoder", TFT, "original", "unused-parameters", STATIC_ENCODER),
    ProofCase("tft-green", "tft-static-encoder", TFT, "preview", "pass", STATIC_ENCODER),
    ProofCase("nhits-original", None, NHITS, "original", "pass"),
    ProofCase("nhits-preview", None, NHITS, "preview", "pass"),
)


@dataclass(frozen=True)
class Proof:
    report: ProofReport
    events: list[ProofEvent]
    changed_install: bool
    left_over: set[Path]

    def __getitem__(self, case: str) -> CaseResult:
        return next(result for result in self.report.cases if result.id == case)


@pytest.fixture(scope="module")
def proof(training_env: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Proof:
    """Red, green and control of both patches, in one launch, from inside a foreign training job."""
    folder = tmp_path_factory.mktemp("proof")
    (folder / "torch.py").write_text("raise RuntimeError('shadowed by the current folder')")
    events: list[ProofEvent] = []
    install = times(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(tempfile, "tempdir", str(folder))
        for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "PET_NNODES", "SLURM_NTASKS", "PL_TRAINER_MAX_EPOCHS"):
            patch.setenv(name, "7")
        preview = build_overlay(package, folder / "preview", healed(package))
        temporary = temporary_folders()
        report = run_proof(training_env, CASES, {"original": None, "preview": preview}, on_event=events.append)
        left_over = temporary_folders() - temporary
    return Proof(report, events, times(package) != install, left_over)


def test_the_proof_holds(proof: Proof) -> None:
    report = proof.report
    assert [(case.id, case.ok, case.detail) for case in report.cases] == [(case.id, True, "") for case in CASES]
    assert report.ok
    assert (report.world_size, report.backend) == (2, "gloo")
    assert report.torch.startswith("2.13.0")
    assert report.lightning == "2.6.6"


def test_the_original_nbeatsx_leaves_its_out_layer_without_a_gradient(proof: Proof) -> None:
    red = proof["nbeatsx-red"]
    assert (red.outcome, red.unused_parameters, red.steps) == ("unused-parameters", OUT, 1)


def test_the_original_tft_leaves_its_41_static_encoder_parameters_without_a_gradient(proof: Proof) -> None:
    red = proof["tft-red"]
    assert red.outcome == "unused-parameters"
    assert len(red.unused_parameters) == 41
    assert all(name.startswith("static_encoder.") for name in red.unused_parameters)


@pytest.mark.parametrize("case", ["nbeatsx-green", "tft-green", "nhits-original", "nhits-preview"])
def test_every_other_case_trains_on_two_ranks_that_stay_equal(proof: Proof, case: str) -> None:
    green = proof[case]
    assert (green.outcome, green.unused_parameters) == ("pass", ())
    assert (green.world_size, green.backend, green.steps) == (2, "gloo", 3)
    assert green.finite_loss is True
    assert green.equal_weights is True


def test_the_patched_models_are_smaller_by_what_was_dead(proof: Proof) -> None:
    outputs = 12 * 5  # the horizon, for each of the five quantiles of MQLoss
    assert proof["nbeatsx-red"].parameters == proof["nbeatsx-green"].parameters + 12 * outputs + outputs
    assert proof["tft-red"].parameters > proof["tft-green"].parameters > 0
    assert proof["nhits-original"].parameters == proof["nhits-preview"].parameters


def test_the_progress_is_told_source_by_source_and_case_by_case(proof: Proof) -> None:
    launched, *others = [(event.kind, event.case and event.case.id) for event in proof.events]
    assert launched == ("launched", None)
    order = ["nbeatsx-red", "tft-red", "nhits-original", "nbeatsx-green", "tft-green", "nhits-preview"]
    assert others == [(kind, case) for case in order for kind in ("started", "finished")]
    assert {event.result for event in proof.events if event.result} == set(proof.report.cases)


def test_the_json_is_what_the_interface_promises(proof: Proof) -> None:
    document = json.loads(json.dumps(proof.report.to_json()))
    assert set(document) == {"ok", "torch", "lightning", "python", "world_size", "backend", "seconds", "cases"}
    promised = "id patch model config source expect outcome ok unused_parameters seconds detail"
    for case in document["cases"]:
        assert set(promised.split()) <= set(case)
    assert document["cases"][0]["unused_parameters"] == list(OUT)


def test_nothing_is_written_into_the_install_and_no_temporary_folder_is_left(proof: Proof) -> None:
    assert not proof.changed_install
    assert proof.left_over == set()


def on_start_of(case: str, action: Callable[[], None]) -> Callable[[ProofEvent], None]:
    """A listener that acts once, when the case starts."""

    def listen(event: ProofEvent) -> None:
        if event.kind == "started" and event.case is not None and event.case.id == case:
            action()

    return listen


def test_a_hung_case_ends_by_the_time_out_and_a_broken_or_wrong_source_is_an_error(
    training_env: Path, package: Path, tmp_path: Path, mark: str
) -> None:
    (tmp_path / "empty").mkdir()
    trees = {
        "original": build_overlay(
            package, tmp_path / "broken", {"neuralforecast/__init__.py": b"raise ImportError('no such luck')\n"}
        ),
        "installed": tmp_path / "empty",
        "preview": build_overlay(package, tmp_path / "sleeping", sleeping(package)),
    }
    cases = [
        ProofCase("broken", None, NHITS, "original", "pass"),
        ProofCase("wrong-tree", None, NHITS, "installed", "pass"),
        ProofCase("hung", None, NHITS, "preview", "pass"),
        ProofCase("unreached", None, NHITS, "preview", "pass"),
    ]

    def stop_rank_1() -> None:
        for pid in processes_with(mark, "RANK=1"):
            os.kill(pid, signal.SIGSTOP)

    report = run_proof(training_env, cases, trees, timeout=40, on_event=on_start_of("hung", stop_rank_1))

    broken, wrong_tree, hung, unreached = report.cases
    assert not report.ok
    assert (broken.outcome, broken.ok) == ("error", False)
    assert "ImportError: no such luck" in broken.detail
    assert (wrong_tree.outcome, wrong_tree.ok) == ("error", False)
    assert f"not from {tmp_path / 'empty'}" in wrong_tree.detail
    assert (hung.outcome, hung.ok) == ("timeout", False)
    assert "time-out of 40 s" in hung.detail
    assert re.search(r"rank 0 was at \S+\.py:\d+ in \w+", hung.detail)
    assert "rank 1 was at a place it does not tell" in hung.detail  # it is stopped
    assert (unreached.outcome, unreached.ok, unreached.detail) == ("timeout", False, "not reached")
    assert report.seconds >= 40
    assert processes_with(mark) == set()


def test_a_killed_rank_is_an_error_that_names_the_signal(
    training_env: Path, package: Path, tmp_path: Path, mark: str
) -> None:
    trees = {"preview": build_overlay(package, tmp_path / "sleeping", sleeping(package))}
    cases = [
        ProofCase("killed", None, NHITS, "preview", "pass"),
        ProofCase("unreached", None, NHITS, "preview", "pass"),
    ]

    def kill_rank_1() -> None:
        for pid in processes_with(mark, "RANK=1"):
            os.kill(pid, signal.SIGKILL)

    report = run_proof(training_env, cases, trees, on_event=on_start_of("killed", kill_rank_1))

    killed, unreached = report.cases
    assert (killed.outcome, killed.ok) == ("error", False)
    assert killed.detail.startswith("rank 1 was ended by SIGKILL")
    assert (unreached.outcome, unreached.ok, unreached.detail) == ("error", False, "not reached")
    assert processes_with(mark) == set()


def test_an_interrupt_leaves_nothing_behind(
    training_env: Path, package: Path, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # its own, since other tests prove things meanwhile
    trees = {"preview": build_overlay(package, tmp_path / "sleeping", sleeping(package))}
    cases = [ProofCase("interrupted", None, NHITS, "preview", "pass")]
    left_over = temporary_folders()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_proof(training_env, cases, trees, on_event=on_start_of("interrupted", interrupt))

    assert processes_with(mark) == set()
    assert temporary_folders() <= left_over
