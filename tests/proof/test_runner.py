"""The proof itself: real processes, real DDP, and no leftovers whatever happens to them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import MARK, ROOT, environment, processes_with

from nfpatch.catalog import Case
from nfpatch.engine.probe import probe
from nfpatch.engine.sources import build_overlay
from nfpatch.errors import InstallEnvironmentError
from nfpatch.proof.runner import ProofEvent, ProofReport, RunOptions, run_proof
from nfpatch.proof.verdict import CaseResult, ProofCase

pytestmark = [
    pytest.mark.ddp,
    pytest.mark.skipif(sys.platform != "linux", reason="requires /proc"),
]

STATIC_ENCODER = ("static_encoder.*",)
OUT = ("out.weight", "out.bias")
SMALL = {"windows_batch_size": 16, "mlp_units": [[8, 8]] * 3}
TFT = Case("TFT", "no static features", options={"windows_batch_size": 16, "hidden_size": 8, "n_head": 2})
NBEATSX = Case("NBEATSx", "MQLoss", loss="MQLoss", options=SMALL)
SEARCH = NBEATSX._replace(model="AutoNBEATSx")
STATIC = TFT._replace(config="static", exogenous=("static",))
STATIC_CONTEXT = ("static_encoder.vsn.joint_grn.lin_c.*",)
NHITS = Case("NHITS", "MQLoss, all exogenous", "MQLoss", ("static", "historic", "future"), SMALL)


@pytest.fixture(scope="module")
def package(training_env: Path) -> Path:
    site_packages = probe(training_env).neuralforecast
    assert site_packages is not None
    return site_packages / "neuralforecast"


def patched_files(package: Path) -> dict[str, bytes]:
    """The two files of neuralforecast 1.7.4, patched by hand."""
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
    """An NHITS whose first training step never returns."""
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
    """A marker in the environment of every process that the test starts."""
    mark = str(uuid.uuid4())
    monkeypatch.setenv(MARK, mark)
    return mark


CASES = (
    ProofCase("nbeatsx-red", "nbeatsx-unused-out", NBEATSX, "released", "unused-parameters", OUT, has_unused=True),
    ProofCase("nbeatsx-green", "nbeatsx-unused-out", NBEATSX, "patched", "pass", OUT),
    ProofCase("tft-red", "tft-static-encoder", TFT, "released", "unused-parameters", STATIC_ENCODER, has_unused=True),
    ProofCase("tft-green", "tft-static-encoder", TFT, "patched", "pass", STATIC_ENCODER),
    ProofCase("nhits-released", None, NHITS, "released", "pass"),
    ProofCase("nhits-patched", None, NHITS, "patched", "pass"),
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
    """Red, green and control of both patches, in one launch, inside the environment of another training job.

    The default ports of torch and its launcher are busy.
    """
    folder = tmp_path_factory.mktemp("proof")
    (folder / "torch.py").write_text("raise RuntimeError('shadowed by the current folder')")
    events: list[ProofEvent] = []
    install = times(package)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as busy:
        for port in (29400, 29500):
            with contextlib.suppress(OSError):  # busy already
                busy.enter_context(socket.create_server(("127.0.0.1", port)))
        patch.chdir(folder)
        patch.setattr(tempfile, "tempdir", str(folder))
        for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "PET_NNODES", "SLURM_NTASKS", "PL_TRAINER_MAX_EPOCHS"):
            patch.setenv(name, "7")
        preview = build_overlay(package, folder / "patched", patched_files(package))
        temporary = temporary_folders()
        report = run_proof(training_env, CASES, {"released": None, "patched": preview}, on_event=events.append)
        left_over = temporary_folders() - temporary
    return Proof(report, events, times(package) != install, left_over)


def test_the_proof_passes(proof: Proof) -> None:
    report = proof.report
    assert [(case.id, case.ok, case.detail) for case in report.cases] == [(case.id, True, "") for case in CASES]
    assert report.ok
    assert (report.world_size, report.backend) == (2, "gloo")
    assert report.stack.torch.startswith("2.13.0")
    assert report.stack.lightning == "2.6.6"


def test_in_the_released_nbeatsx_the_out_layer_is_unused(proof: Proof) -> None:
    red = proof["nbeatsx-red"]
    assert (red.outcome, red.unused_parameters, red.steps) == ("unused-parameters", OUT, 1)


def test_in_the_released_tft_41_static_encoder_parameters_are_unused(proof: Proof) -> None:
    red = proof["tft-red"]
    assert red.outcome == "unused-parameters"
    assert len(red.unused_parameters) == 41
    assert all(name.startswith("static_encoder.") for name in red.unused_parameters)


@pytest.mark.parametrize("case", ["nbeatsx-green", "tft-green", "nhits-released", "nhits-patched"])
def test_every_other_case_trains_with_equal_weights_on_two_ranks(proof: Proof, case: str) -> None:
    green = proof[case]
    assert (green.outcome, green.unused_parameters) == ("pass", ())
    assert (green.world_size, green.backend, green.steps) == (2, "gloo", 3)
    assert green.finite_loss is True
    assert green.equal_weights is True
    assert green.finite_forecasts is True
    assert green.forecast_shape == (24, 1 if case == "tft-green" else 5)


def test_patched_models_lack_the_unused_parameters(proof: Proof) -> None:
    outputs = 12 * 5  # the horizon, for each of the five quantiles of MQLoss
    assert proof["nbeatsx-red"].parameters == proof["nbeatsx-green"].parameters + 12 * outputs + outputs
    assert proof["tft-red"].parameters > proof["tft-green"].parameters > 0
    assert proof["nhits-released"].parameters == proof["nhits-patched"].parameters


def test_progress_is_reported_by_source_and_case(proof: Proof) -> None:
    launched, *others = [(event.kind, event.case and event.case.id) for event in proof.events]
    assert launched == ("launched", None)
    order = ["nbeatsx-red", "tft-red", "nhits-released", "nbeatsx-green", "tft-green", "nhits-patched"]
    assert others == [(kind, case) for case in order for kind in ("started", "finished")]
    assert {event.result for event in proof.events if event.result} == set(proof.report.cases)


def test_the_json_has_the_documented_keys(proof: Proof) -> None:
    document = json.loads(json.dumps(proof.report.to_json()))
    facts = {"ok", "torch", "lightning", "python", "world_size", "backend", "accelerator", "nodes", "seconds"}
    assert set(document) == facts | {"cases", "proved", "unproved", "not_needed", "skipped"}
    promised = "id patch model config source expect outcome ok unused_parameters seconds detail"
    for case in document["cases"]:
        assert set(promised.split()) <= set(case)
    assert document["cases"][0]["unused_parameters"] == list(OUT)


def test_the_install_is_unchanged_and_no_temporary_folder_is_left(proof: Proof) -> None:
    assert not proof.changed_install
    assert proof.left_over == set()


# Code appended to a model's module, so that its fit proves nothing, and the expected message.
PLANTED = {
    "NHITS": (
        """
def fit(self, *args, **kwargs):
    from pytorch_lightning.plugins.environments import LightningEnvironment
    self.trainer_kwargs.pop("strategy")
    self.trainer_kwargs.update(devices=1, num_nodes=1, plugins=[LightningEnvironment()])
    return super(NHITS, self).fit(*args, **kwargs)
NHITS.fit = fit
""",
        "torch reports world size 1 and backend None instead of 2 and gloo",
    ),
    "MLP": (
        """
def fit(self, *args, **kwargs):
    self.trainer_kwargs["max_steps"] = 1
    return super(MLP, self).fit(*args, **kwargs)
MLP.fit = fit
""",
        "1 training steps, which proves nothing",
    ),
    "NBEATS": (
        """
def fit(self, *args, **kwargs):
    super(NBEATS, self).fit(*args, **kwargs)
    import os
    next(self.parameters()).data += int(os.environ["RANK"])
    return self
NBEATS.fit = fit
""",
        "the weights differ between ranks",
    ),
    "DLinear": (
        """
def predict(self, *args, **kwargs):
    return super(DLinear, self).predict(*args, **kwargs) * float("nan")
DLinear.predict = predict
""",
        "not all forecasts are finite numbers",
    ),
}


def without_a_live_block(package: Path) -> bytes:
    """NBEATSx after a patch that removes the unused layer, and also a block that is used."""
    source = patched_files(package)["neuralforecast/models/nbeatsx.py"]
    blocks = b"torch.nn.ModuleList(blocks)"
    assert source.count(blocks) == 1
    return source.replace(blocks, b"torch.nn.ModuleList(blocks[:-1])")


@pytest.fixture(scope="module")
def flawed(training_env: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CaseResult]:
    """The results, by id, of fits that finish and prove nothing, in one launch."""
    planted = {
        f"neuralforecast/models/{model.lower()}.py": (package / f"models/{model.lower()}.py").read_bytes()
        + code.encode()
        for model, (code, _) in PLANTED.items()
    }
    planted["neuralforecast/models/nbeatsx.py"] = without_a_live_block(package)
    trees = {"released": None, "patched": build_overlay(package, tmp_path_factory.mktemp("planted") / "tree", planted)}
    original = ProofCase("worked-around", "p", NBEATSX, "released", "pass", OUT, "find-unused-ddp", has_unused=True)
    like = ProofCase("unclaimed", "p", NBEATSX, "patched", "pass", OUT, like="worked-around")
    cases = [
        original,
        replace(original, id="alone", strategy="single-process"),
        like,
        replace(like, id="claimed", unused_parameters=(*OUT, "blocks.2.*")),
        replace(like, id="parity", unused_parameters=(*OUT, "blocks.2.*"), strategy="single-process", like="alone"),
        replace(like, id="incomparable", like="missing"),
        *(ProofCase(model, None, Case(model, "MAE"), "patched", "pass") for model in PLANTED),
        ProofCase("search", "p", SEARCH, "patched", "pass", strategy="single-process"),
        ProofCase("searches", "p", SEARCH, "patched", "pass"),
        ProofCase("static", "p", STATIC, "released", "unused-parameters", STATIC_CONTEXT, has_unused=True),
    ]
    return {result.id: result for result in run_proof(training_env, cases, trees).cases}


@pytest.mark.parametrize("model", PLANTED)
def test_a_fit_that_proves_nothing_is_detected(flawed: dict[str, CaseResult], model: str) -> None:
    assert (flawed[model].outcome, flawed[model].ok) == ("error", False)
    assert PLANTED[model][1] in flawed[model].detail


def test_removing_a_used_layer_is_detected_by_unclaimed_names(
    flawed: dict[str, CaseResult],
) -> None:
    assert flawed["worked-around"].ok
    assert flawed["worked-around"].unused_parameters == OUT
    assert flawed["unclaimed"].ok is False
    assert "blocks.2." in flawed["unclaimed"].detail


@pytest.mark.parametrize(("case", "like"), [("claimed", "worked-around"), ("parity", "alone")])
def test_claiming_a_used_layer_is_detected_by_weights_and_forecasts(
    flawed: dict[str, CaseResult], case: str, like: str
) -> None:
    assert flawed["alone"].ok
    assert (flawed["alone"].world_size, flawed["alone"].backend) == (1, None)
    assert (flawed[case].ok, flawed[case].matches_reference) == (False, False)
    assert f"differs from {like}" in flawed[case].detail


def test_a_search_through_optuna_can_be_proved(flawed: dict[str, CaseResult]) -> None:
    search = flawed["search"]
    assert (search.outcome, search.ok, search.detail) == ("pass", True, "")
    assert (search.world_size, search.backend, search.forecast_shape) == (1, None, (24, 5))


def test_ranks_with_independent_searches_are_detected(flawed: dict[str, CaseResult]) -> None:
    assert (flawed["searches"].ok, flawed["searches"].detail) == (False, "the weights differ between ranks")


def test_tft_with_static_features_has_another_unused_layer(flawed: dict[str, CaseResult]) -> None:
    static = flawed["static"]
    assert (static.outcome, static.ok, static.detail) == ("unused-parameters", True, "")
    assert all(name.startswith("static_encoder.vsn.joint_grn.lin_c.") for name in static.unused_parameters)


def test_a_fit_without_its_reference_proves_nothing(flawed: dict[str, CaseResult]) -> None:
    assert flawed["incomparable"].outcome == "error"
    assert "nothing to compare with: missing did not train" in flawed["incomparable"].detail


def on_start_of(case: str, action: Callable[[], None]) -> Callable[[ProofEvent], None]:
    """A listener that acts once, at the start of the case."""

    def listen(event: ProofEvent) -> None:
        if event.kind == "started" and event.case is not None and event.case.id == case:
            action()

    return listen


def test_a_hung_case_times_out_and_a_broken_source_is_an_error(
    training_env: Path, package: Path, tmp_path: Path, mark: str
) -> None:
    (tmp_path / "empty").mkdir()
    trees = {
        "released": build_overlay(
            package, tmp_path / "broken", {"neuralforecast/__init__.py": b"raise ImportError('no such luck')\n"}
        ),
        "installed": tmp_path / "empty",
        "patched": build_overlay(package, tmp_path / "sleeping", sleeping(package)),
    }
    cases = [
        ProofCase("broken", None, NHITS, "released", "pass"),
        ProofCase("wrong-tree", None, NHITS, "installed", "pass"),
        ProofCase("hung", None, NHITS, "patched", "pass"),
        ProofCase("unreached", None, NHITS, "patched", "pass"),
    ]

    def stop_rank_1() -> None:
        for pid in processes_with(mark, "RANK=1"):
            os.kill(pid, signal.SIGSTOP)

    report = run_proof(training_env, cases, trees, RunOptions(timeout=45), on_event=on_start_of("hung", stop_rank_1))

    broken, wrong_tree, hung, unreached = report.cases
    assert not report.ok
    assert (broken.outcome, broken.ok) == ("error", False)
    assert "ImportError: no such luck" in broken.detail
    assert (wrong_tree.outcome, wrong_tree.ok) == ("error", False)
    assert str(tmp_path / "empty") in wrong_tree.detail
    assert (hung.outcome, hung.ok) == ("timeout", False)
    assert "45 s" in hung.detail
    assert re.search(r"rank 0 was at \S+torch/distributed/\S+\.py:\d+ in \w+", hung.detail)  # in a collective
    assert "rank 1 was at an unknown place" in hung.detail  # it is suspended
    assert (unreached.outcome, unreached.ok, unreached.detail) == ("timeout", False, "not reached")
    assert report.seconds >= 45
    assert processes_with(mark) == set()


def test_three_ranks_train_together_and_end_with_equal_weights(
    training_env: Path, package: Path, tmp_path: Path
) -> None:
    red = ProofCase("red", "p", NBEATSX, "released", "unused-parameters", OUT, has_unused=True)
    worked_around = replace(red, id="worked-around", expect="pass", strategy="find-unused-ddp")
    green = ProofCase("green", "p", NBEATSX, "patched", "pass", OUT, like="worked-around")
    trees = {"released": None, "patched": build_overlay(package, tmp_path / "patched", patched_files(package))}

    report = run_proof(training_env, [red, worked_around, green], trees, RunOptions(devices=3))

    assert [(case.id, case.ok, case.detail) for case in report.cases] == [
        ("red", True, ""),
        ("worked-around", True, ""),
        ("green", True, ""),
    ]
    assert {(case.world_size, case.backend) for case in report.cases} == {(3, "gloo")}
    trained = report.cases[-1]
    assert trained.equal_weights is True
    assert trained.matches_reference is not None  # reported, but not required


def test_a_gpu_proof_without_a_gpu_is_an_environment_error(training_env: Path, mark: str) -> None:
    cases = [ProofCase("nhits", None, NHITS, "released", "pass")]

    with pytest.raises(InstallEnvironmentError, match=r"torch 2\.13\.0\+cpu finds no GPU .*--accelerator cpu"):
        run_proof(training_env, cases, {"released": None}, RunOptions(accelerator="gpu"))

    assert processes_with(mark) == set()


def test_a_killed_rank_is_an_error_that_names_the_signal(
    training_env: Path, package: Path, tmp_path: Path, mark: str
) -> None:
    trees = {"patched": build_overlay(package, tmp_path / "sleeping", sleeping(package))}
    cases = [
        ProofCase("killed", None, NHITS, "patched", "pass"),
        ProofCase("unreached", None, NHITS, "patched", "pass"),
    ]

    def kill_rank_1() -> None:
        for pid in processes_with(mark, "RANK=1"):
            os.kill(pid, signal.SIGKILL)

    report = run_proof(training_env, cases, trees, on_event=on_start_of("killed", kill_rank_1))

    killed, unreached = report.cases
    assert (killed.outcome, killed.ok) == ("error", False)
    assert killed.detail.startswith("rank 1 was killed by SIGKILL")
    assert (unreached.outcome, unreached.ok, unreached.detail) == ("error", False, "not reached")
    assert processes_with(mark) == set()


def test_an_interrupt_leaves_no_processes_or_files(training_env: Path, mark: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nfpatch", "verify", "--preview", "--python", training_env]
    process = subprocess.Popen(
        command,
        env={**environment(ROOT), MARK: mark, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes them ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    give_up = time.monotonic() + 120
    while not processes_with(mark, "RANK=1") and time.monotonic() < give_up:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "Aborted!" in stderr
    assert "Traceback" not in stderr
    assert processes_with(mark) == set()
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_interface_distributed_fits_have_gloos_error(
    training_env: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nfpatch0")
    cases = [
        ProofCase("distributed", None, NHITS, "released", "pass"),
        ProofCase("alone", None, NHITS, "released", "pass", strategy="single-process"),
    ]

    report = run_proof(training_env, cases, {"released": None})

    distributed, alone = report.cases
    assert (distributed.outcome, distributed.ok) == ("error", False)
    assert "nfpatch0" in distributed.detail
    assert alone.ok
    assert report.world_size is None
    assert processes_with(mark) == set()


FILL_THE_DISK = """
import sys
from pathlib import Path
from nfpatch.catalog import Case
from nfpatch.errors import InstallEnvironmentError
from nfpatch.proof.runner import RunOptions, run_proof
from nfpatch.proof.verdict import ProofCase

folder = Path(sys.argv[2])

def fill(event):
    if event.kind == "started":
        with open(folder / "filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

try:
    case = Case("TFT", "MAE", options={"hidden_size": 8, "n_head": 2})  # reports more than the last page can hold
    run_proof(Path(sys.argv[1]), [ProofCase("full", None, case, "released", "pass")], {"released": None}, on_event=fill)
except InstallEnvironmentError as problem:
    print(problem)
print(sorted(path.name for path in folder.iterdir()))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command with a temporary folder of this number of bytes, a file system in its own namespace."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0:
        pytest.skip("no right to mount a file system")

    def run(size: str, *command: object) -> subprocess.CompletedProcess[str]:
        script = f'mount -t tmpfs -o size={size} none {folder} && "$@"; code=$?; ls -A {folder} >&2; exit $code'
        return subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", *(folder if part is Ellipsis else part for part in command)],
            env={**environment(ROOT), "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
        )

    return run


def test_a_full_temporary_disk_is_an_environment_error(
    training_env: Path, small_disk: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    verify = [sys.executable, "-m", "nfpatch", "verify", "--preview", "--python", training_env]

    done = small_disk("200k", *verify)

    assert done.returncode == 4
    assert f"temporary folder {tmp_path / 'small'} is full" in " ".join(done.stderr.split())
    assert "TMPDIR" in done.stderr.splitlines()[-1]  # and no leftovers, which would be listed below


def test_a_temporary_disk_that_fills_up_during_training_is_an_environment_error(
    training_env: Path, small_disk: Callable[..., subprocess.CompletedProcess[str]], mark: str
) -> None:
    done = small_disk("2m", sys.executable, "-c", FILL_THE_DISK, training_env, ...)

    assert "is full" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "['filler']"
    assert processes_with(mark) == set()
