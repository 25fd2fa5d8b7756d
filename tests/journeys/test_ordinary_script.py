"""An ordinary script gives the same results with several processes as with one, for every launcher."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import PRETENDED, TORCHRUN, environment, invoke, long, run_ranks

HERE = Path(__file__).parent
SCRIPT = HERE / "ordinary.py"

ONE = {"accelerator": "cpu", "devices": 1}
TWO = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
BOTH = ("NHITS", "MLPMultivariate")
# Name -> command that starts the script, trainer arguments, models, number of processes that reach the script's end.
LAUNCHES: dict[str, tuple[Sequence[str], dict[str, Any], Sequence[str], int]] = {
    "torch": (TORCHRUN, TWO, BOTH, 2),
    "script": ((), TWO, BOTH, 2),
    "script, strategy object": ((), {**TWO, "strategy": "an object"}, BOTH, 2),
    "script, pretended GPUs": ((), {**TWO, "accelerator": "gpu"}, BOTH, 2),
    "notebook": ((), {**TWO, "strategy": "ddp_notebook"}, BOTH, 1),
    "notebook, pretended GPUs": ((), {**TWO, "accelerator": "gpu", "strategy": "ddp_notebook"}, BOTH, 1),
    "spawn": ((), {**TWO, "strategy": "ddp_spawn"}, ("NHITS",), 1),
}
# ddp_spawn is tested with one model only, because its processes import everything again for each fit.
CHOSEN = ("script, strategy object", "notebook, pretended GPUs")


def run(
    site: Path,
    python: Path,
    out: Path,
    trainer: Mapping[str, Any],
    models: Sequence[str],
    launcher: Sequence[str] = (),
) -> tuple[int, list[Any], str]:
    """The exit code of the script, the results of each process that reached its end, and its output."""
    gpus = {"PRETENDED_GPUS": "1"} if trainer["accelerator"] == "gpu" else {}
    command = [python, *launcher, SCRIPT, out, json.dumps(trainer), *models]
    return run_ranks(command, out, {**environment(site, HERE, PRETENDED), **gpus})


def check_launch(site: Path, python: Path, folder: Path, name: str, one: Mapping[str, Mapping[str, Any]]) -> None:
    """Runs the script with this launcher on a patched install; `one` are the results of a single process."""
    launcher, trainer, models, n_at_the_end = LAUNCHES[name]
    out = folder / name.replace(", ", "-").replace(" ", "-")
    code, results, output = run(site, python, out, trainer, models, launcher)
    assert code == 0, f"{name}: {output[-3000:]}"
    assert [path.read_text() for path in sorted(out.glob("world-*"))] == ["2", "2"], name
    expected = {model: one[model] for model in models}
    assert results == [expected] * n_at_the_end, name


@pytest.mark.ddp
@pytest.mark.parametrize(("release", "launches"), [("3.3.0", CHOSEN), long("1.7.4", LAUNCHES), long("3.3.0", LAUNCHES)])
def test_patched_every_rank_gets_the_results_of_one_process(
    release: str, launches: Iterable[str], released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    _, (before,), output = run(site, training_env, tmp_path / "released", ONE, BOTH)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    code, results, output = run(site, training_env, tmp_path / "one", ONE, BOTH)
    assert (code, results) == (0, [before]), f"a single process gets the results of the unpatched source: {output}"
    for name in launches:
        check_launch(site, training_env, tmp_path, name, before)


@pytest.mark.ddp
@pytest.mark.long
def test_patched_a_recurrent_model_and_tft_give_the_results_of_one_process(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site, models = released("3.3.0"), ("GRU", "TFT")
    assert invoke("apply", "--site-packages", site).exit_code == 0
    _, one, _ = run(site, training_env, tmp_path / "one", ONE, models)
    code, results, output = run(site, training_env, tmp_path / "two", TWO, models)
    assert code == 0, output[-3000:]
    assert results == one * 2


@pytest.mark.ddp
def test_unpatched_the_script_fails(released: Callable[[str], Path], training_env: Path, tmp_path: Path) -> None:
    site = released("1.7.4")
    code, results, output = run(site, training_env, tmp_path / "two", TWO, BOTH)
    assert (code != 0, results) == (True, [])
    assert "could not broadcast input array from shape" in output
