"""Several nodes: each starts its own processes, and all report the same result."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support import invoke, run_nfpatch
from test_runner import NBEATSX, OUT, SEARCH, mark, package, patched_files, processes_with

from nfpatch.catalog import Case
from nfpatch.engine.launch import Nodes
from nfpatch.engine.sources import build_overlay
from nfpatch.proof.report import conditions_of
from nfpatch.proof.runner import ProofEvent, ProofReport, RunOptions, run_proof
from nfpatch.proof.verdict import ProofCase

__all__ = ["mark", "package"]  # fixtures

# The first node hosts the rendezvous; ranks are sorted by address, so it has rank 1 and the other one rank 0.
ADDRESSES = ("127.0.0.2", "127.0.0.1")
MLP = Case("MLP", "MAE", options={"hidden_size": 8})


@pytest.fixture
def endpoint() -> str:
    """A rendezvous endpoint with a free port."""
    with socket.socket() as listener:
        listener.bind((ADDRESSES[0], 0))
        return f"{ADDRESSES[0]}:{listener.getsockname()[1]}"


def prove_on_two_nodes(
    python: Path,
    cases: Sequence[ProofCase],
    trees: dict[str, Path | None],
    endpoint: str,
    on_event: Callable[[ProofEvent], None] = lambda event: None,
) -> list[ProofReport]:
    """The reports of two nodes with one process each; the first one hosts the rendezvous."""
    nodes = [Nodes(2, rdzv_endpoint=endpoint, local_addr=address) for address in ADDRESSES]
    with ThreadPoolExecutor() as pool:
        proofs = []
        for node in nodes:
            proofs.append(pool.submit(run_proof, python, cases, trees, RunOptions(1, nodes=node), on_event=on_event))
            wait_for_listener(endpoint)
        return [proof.result() for proof in proofs]


def wait_for_listener(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        with socket.socket() as caller:
            if caller.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)


def with_mlp(package: Path, code: str) -> dict[str, bytes]:
    """The patched source, with this code appended to MLP's module."""
    return {
        **patched_files(package),
        "neuralforecast/models/mlp.py": (package / "models/mlp.py").read_bytes() + code.encode(),
    }


DIVERGING = """
def fit(self, *args, **kwargs):
    super(MLP, self).fit(*args, **kwargs)
    import os
    next(self.parameters()).data += int(os.environ["RANK"])
    return self
MLP.fit = fit
"""


@pytest.mark.ddp
def test_two_nodes_prove_together_and_both_report_all_ranks(
    training_env: Path, package: Path, tmp_path: Path, endpoint: str, mark: str
) -> None:
    preview = build_overlay(package, tmp_path / "patched", with_mlp(package, DIVERGING))
    red = ProofCase("red", "p", NBEATSX, "released", "unused-parameters", OUT, has_unused=True)
    worked_around = replace(red, id="worked-around", expect="pass", strategy="find-unused-ddp")
    cases = [
        red,
        worked_around,
        ProofCase("green", "p", NBEATSX, "patched", "pass", OUT, like="worked-around"),
        ProofCase("diverging", None, MLP, "patched", "pass"),
    ]

    one, other = prove_on_two_nodes(training_env, cases, {"released": None, "patched": preview}, endpoint)

    assert one.cases == other.cases
    assert (one.world_size, one.backend, one.nodes) == (2, "gloo", 2)
    *proved, diverging = one.cases
    assert [(case.id, case.ok, case.detail) for case in proved] == [
        ("red", True, ""),
        ("worked-around", True, ""),
        ("green", True, ""),
    ]
    assert (proved[-1].equal_weights, proved[-1].matches_reference) == (True, True)
    assert diverging.detail == "the weights differ between ranks"
    assert "World size 2 on 2 nodes, backend gloo" in conditions_of(one)
    assert processes_with(mark) == set()


@pytest.mark.ddp
def test_two_nodes_run_the_same_search(training_env: Path, site: Path, endpoint: str) -> None:
    assert invoke("apply", "--site-packages", site).exit_code == 0
    search = ProofCase("search", None, SEARCH._replace(stage="search"), "installed", "pass", forecast=None)

    one, other = prove_on_two_nodes(training_env, [search], {"installed": site}, endpoint)

    assert one.cases == other.cases
    assert [(case.ok, case.detail, case.world_size) for case in one.cases] == [(True, "", 2)]


RANK_1_HANGS = """
def fit(self, *args, **kwargs):
    import os, time
    if os.environ["RANK"] == "1":
        time.sleep(3600)
    return super(MLP, self).fit(*args, **kwargs)
MLP.fit = fit
"""


@pytest.mark.ddp
@pytest.mark.skipif(sys.platform != "linux", reason="requires /proc")
def test_a_killed_node_stops_the_other(
    training_env: Path, package: Path, tmp_path: Path, endpoint: str, mark: str
) -> None:
    trees = {"patched": build_overlay(package, tmp_path / "hanging", with_mlp(package, RANK_1_HANGS))}
    cases = [ProofCase("hung", None, MLP, "patched", "pass"), ProofCase("unreached", None, MLP, "patched", "pass")]

    started: list[ProofEvent] = []

    def kill_rank_1(event: ProofEvent) -> None:
        started.extend([event] if event.kind == "started" else [])
        if len(started) == len(ADDRESSES):
            for pid in processes_with(mark, "RANK=1"):
                os.kill(pid, signal.SIGKILL)

    first, second = prove_on_two_nodes(training_env, cases, trees, endpoint, kill_rank_1)

    assert first.cases[0].detail.startswith("rank 1 was killed by SIGKILL")
    assert second.cases[0].outcome == "error"
    assert second.cases[0].detail.startswith(("rank 0 exited", "torch's launcher exited"))
    assert [report.cases[1].detail for report in (first, second)] == ["not reached", "not reached"]
    assert processes_with(mark) == set()


@pytest.mark.ddp
def test_a_missing_node_is_an_error_after_the_timeout(training_env: Path, site: Path, endpoint: str, mark: str) -> None:
    nodes = ("--devices", 1, "--nnodes", 2, "--rdzv-endpoint", endpoint, "--timeout", 8)
    where = ("--python", training_env, "--site-packages", site)

    done = run_nfpatch("verify", "--preview", "--json", *nodes, *where)

    assert done.returncode == 1, done.stderr
    first, *others = json.loads(done.stdout)["cases"]
    assert first["outcome"] == "timeout"
    assert endpoint in first["detail"]
    assert {case["detail"] for case in others} == {"not reached"}
    assert processes_with(mark) == set()


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--nnodes", 2], "--rdzv-endpoint HOST:PORT"),
        (["--nnodes", 2, "--rdzv-endpoint", "head"], "--rdzv-endpoint HOST:PORT"),
        (["--rdzv-endpoint", "head:29400"], "--nnodes"),
        (["--node-rank", 0], "--nnodes"),
        (["--local-addr", "127.0.0.2"], "--nnodes"),
        (["--devices", 1], "--devices to 2"),
        (["--nnodes", 2, "--rdzv-endpoint", "head:1", "--rdzv-backend", "static"], "needs --node-rank"),
        (["--nnodes", 2, "--rdzv-endpoint", "head:1", "--node-rank", 2], "0 and 1"),
        (["--nnodes", 0], "--nnodes"),
    ],
)
def test_contradicting_options_are_a_usage_error(site: Path, options: list[object], advice: str) -> None:
    result = invoke("verify", "--site-packages", site, *options)

    assert result.exit_code == 2
    assert advice in result.stderr
