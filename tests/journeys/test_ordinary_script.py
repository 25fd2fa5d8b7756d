"""An ordinary script, by every launcher: N processes give what one gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import ALL_JOURNEYS, PRETENDED, TORCHRUN, environment, invoke, run_ranks

HERE = Path(__file__).parent
SCRIPT = HERE / "ordinary.py"

ONE = {"accelerator": "cpu", "devices": 1}
TWO = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
BOTH = ("NHITS", "MLPMultivariate")
# By name: what starts the script, the arguments of the trainer, the models, and how many processes come to its end.
LAUNCHES: dict[str, tuple[Sequence[str], dict[str, Any], Sequence[str], int]] = {
    "torch": (TORCHRUN, TWO, BOTH, 2),
    "script": ((), TWO, BOTH, 2),
    "script, strategy object": ((), {**TWO, "strategy": "an object"}, BOTH, 2),
    "script, pretended GPUs": ((), {**TWO, "accelerator": "gpu"}, BOTH, 2),
    "notebook": ((), {**TWO, "strategy": "ddp_notebook"}, BOTH, 1),
    "notebook, pretended GPUs": ((), {**TWO, "accelerator": "gpu", "strategy": "ddp_notebook"}, BOTH, 1),
    "spawn": ((), {**TWO, "strategy": "ddp_spawn"}, ("NHITS",), 1),
}
# Some on either release, all of them on both with `make journeys`. The processes of ddp_spawn import everything anew
# for each fit, so they have one model.
CHOSEN = {
    "1.7.4": ("torch", "script, pretended GPUs"),
    "3.3.0": ("script, strategy object", "notebook, pretended GPUs"),
}


def run(
    site: Path,
    python: Path,
    out: Path,
    trainer: Mapping[str, Any],
    models: Sequence[str],
    launcher: Sequence[str] = (),
) -> tuple[int, list[Any], str]:
    """The exit code of the script, what each process at its end got, and what was printed."""
    gpus = {"PRETENDED_GPUS": "1"} if trainer["accelerator"] == "gpu" else {}
    command = [python, *launcher, SCRIPT, out, json.dumps(trainer), *models]
    return run_ranks(command, out, {**environment(site, HERE, PRETENDED), **gpus})


def ends_as_in_one_process(
    site: Path, python: Path, folder: Path, name: str, one: Mapping[str, Mapping[str, Any]]
) -> None:
    """Runs the script by this launcher on a healed install; `one` is what one process got."""
    launcher, trainer, models, at_the_end = LAUNCHES[name]
    out = folder / name.replace(", ", "-").replace(" ", "-")
    code, told, words = run(site, python, out, trainer, models, launcher)
    assert code == 0, f"{name}: {words[-3000:]}"
    assert [path.read_text() for path in sorted(out.glob("world-*"))] == ["2", "2"], name
    due = {model: one[model] for model in models}
    assert told == [due] * at_the_end, name


@pytest.mark.ddp
@pytest.mark.parametrize("release", CHOSEN)
def test_on_a_healed_install_each_rank_gets_what_one_process_gets(
    release: str, released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released(release)
    _, (before,), words = run(site, training_env, tmp_path / "released", ONE, BOTH)
    assert invoke("apply", "--site-packages", site).exit_code == 0
    code, told, words = run(site, training_env, tmp_path / "one", ONE, BOTH)
    assert (code, told) == (0, [before]), f"one process gets what it got from the released source: {words}"
    for name in LAUNCHES if ALL_JOURNEYS else CHOSEN[release]:
        ends_as_in_one_process(site, training_env, tmp_path, name, before)


@pytest.mark.ddp
@pytest.mark.skipif(
    not ALL_JOURNEYS, reason="`make journeys` runs it; verify --thorough takes both through their stages"
)
def test_a_recurrent_model_and_tft_end_well_too(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site, models = released("3.3.0"), ("GRU", "TFT")
    assert invoke("apply", "--site-packages", site).exit_code == 0
    _, one, _ = run(site, training_env, tmp_path / "one", ONE, models)
    code, told, words = run(site, training_env, tmp_path / "two", TWO, models)
    assert code == 0, words[-3000:]
    assert told == one * 2


@pytest.mark.ddp
def test_on_the_released_install_it_does_not_end_well(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    site = released("1.7.4")
    code, told, words = run(site, training_env, tmp_path / "two", TWO, BOTH)
    assert (code != 0, told) == (True, [])
    assert "could not broadcast input array from shape" in words
