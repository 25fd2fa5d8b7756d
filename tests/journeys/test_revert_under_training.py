"""A training that runs during `revert` keeps the modules that it has imported, and can save."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import RANKS_TIMEOUT_SECONDS, TORCHRUN, environment, invoke, long

HERE = Path(__file__).parent


@pytest.mark.ddp
@pytest.mark.parametrize("release", ["3.3.0", long("1.7.4")])
def test_a_running_training_finishes_and_saves_after_revert(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    out = tmp_path / "out"
    out.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server, (tmp_path / "log").open("w+") as log:
        server.settimeout(RANKS_TIMEOUT_SECONDS)
        port = server.getsockname()[1]
        variables = {**environment(site, HERE), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [training_env, *TORCHRUN, HERE / "gated.py", out, str(port)]
        with subprocess.Popen(command, env=variables, cwd=out, stdout=log, stderr=log) as training:
            gates = [server.accept()[0] for _ in range(2)]
            assert invoke("revert", "--site-packages", site).exit_code == 0
            assert not (site / "neuralforecast" / "_nfpatch").exists()
            for gate in gates:
                gate.sendall(b"1")
                gate.close()
            code = training.wait(RANKS_TIMEOUT_SECONDS)
        assert code == 0, (tmp_path / "log").read_text()[-3000:]
    assert [json.loads(path.read_text()) for path in sorted(out.glob("rank-*.json"))] == [[24, 24]] * 2
