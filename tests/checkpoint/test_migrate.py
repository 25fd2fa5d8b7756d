"""`migrate` with real models, and with files that are not models, in the training environment."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from releases import unpack
from saved_models import MigrationCheck, Transfer, cases_of, is_resized, patched, prove
from support import ROOT, environment, invoke

from nfpatch.target import ENTRY

pytestmark = pytest.mark.ddp  # real training


@dataclass(frozen=True)
class Transferred:
    """The folder of the models after their transfers, the source trees, and the results."""

    folder: Path
    original: Path
    patched_tree: Path
    results: list[MigrationCheck]


@pytest.fixture(scope="module")
def transferred(training_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Transferred:
    folder = tmp_path_factory.mktemp("transfers")
    original = unpack("1.7.4", folder / "original")
    patched_tree = patched(original, folder / "patched_tree")
    newer = unpack("1.7.7", folder / "newer")
    cases = cases_of("1.7.4")
    upgraded = tuple(filter(is_resized, cases))
    transfers = [
        Transfer("applied", original, patched_tree, cases),
        Transfer("reverted", patched_tree, original, cases),
        Transfer("upgraded", original, newer, upgraded),
    ]
    return Transferred(folder, original, patched_tree, prove(transfers, training_env, folder))


def test_forecasts_and_resumed_fits_are_bit_identical(transferred: Transferred) -> None:
    assert len(transferred.results) == 8
    assert [result for result in transferred.results if not result.holds] == []


def test_without_migrate_they_do_not_load_and_the_docs_quote_the_error(transferred: Transferred) -> None:
    page = (ROOT / "docs" / "how-to" / "saved-models.md").read_text()
    for result in (result for result in transferred.results if is_resized(result.case)):
        words = (
            "Missing key(s) in state_dict: " if result.transfer == "reverted" else "Unexpected key(s) in state_dict: "
        )
        assert words in result.before
        assert words in page


def test_a_model_with_frozen_layers_loads_without_migrate(transferred: Transferred) -> None:
    frozen = [result for result in transferred.results if not is_resized(result.case)]
    assert {(result.transfer, result.case.model, result.case.exogenous) for result in frozen} == {
        ("applied", "TFT", ("static",)),
        ("reverted", "TFT", ("static",)),
    }
    assert {result.before for result in frozen} == {""}


def test_only_keys_of_unused_parameters_are_dropped_and_added(transferred: Transferred) -> None:
    changes = {
        (result.transfer, result.case.model, result.case.exogenous): [
            (len(file["dropped"]), len(file["added"])) for file in result.files
        ]
        for result in transferred.results
    }
    assert changes[("applied", "NBEATSx", ())] == [(2, 0)] * 3  # the saved model, and two checkpoints of the fit
    assert changes[("applied", "TFT", ())] == [(41, 0)] * 3
    assert changes[("applied", "TFT", ("static",))] == [(0, 0)] * 3
    assert changes[("reverted", "NBEATSx", ())] == [(0, 2)] * 3
    assert changes[("reverted", "TFT", ())] == [(0, 41)] * 3
    assert changes[("upgraded", "TFT", ())] == [(41, 0)] * 3


PRINT_DIFFERENCES = """
import sys, types
sys.path.insert(0, sys.argv[1])
import neuralforecast, torch

seen = set()  # callbacks refer to the model, which refers to them

def differences(one, other, place=""):
    if (id(one), id(other)) in seen:
        return
    seen.add((id(one), id(other)))
    if type(one) is not type(other):
        yield place + ": " + type(one).__name__
    elif isinstance(one, types.MethodType):
        yield from differences(one.__self__, other.__self__, place + "/self")
    elif isinstance(one, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key in one and key in other:
                yield from differences(one[key], other[key], place + "/" + str(key))
            else:
                yield place + "/" + str(key)
    elif isinstance(one, (list, tuple)) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other)):
            yield from differences(left, right, place + "/" + str(number))
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield place
    elif hasattr(one, "__dict__") and not isinstance(one, type):
        yield from differences(vars(one), vars(other), place)
    elif one != other:
        yield place

new, old = (torch.load(path, map_location="cpu", weights_only=False) for path in sys.argv[2:4])
print(*sorted(set(differences(old, new))), sep="\\n")
"""


def test_the_rest_of_a_checkpoint_is_unchanged(transferred: Transferred, training_env: Path) -> None:
    (result,) = (r for r in transferred.results if (r.transfer, r.case.model) == ("applied", "NBEATSx"))
    path = Path(result.files[1]["path"])
    kept = path.with_name(path.name + ".nfpatch-backup")

    command = [training_env, "-c", PRINT_DIFFERENCES, transferred.patched_tree, path, kept]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    places = done.stdout.splitlines()
    assert {"/state_dict/out.weight", "/state_dict/out.bias"} <= set(places)
    # the optimizer's entries of two unused parameters are dropped, and later entries move up
    assert [p for p in places if not p.startswith(("/state_dict/out.", "/optimizer_states/0/"))] == []


def test_models_of_3_3_0_already_fit_and_are_not_read(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "TFT_0.safetensors"
    saved.write_bytes(b"\x02\0\0\0\0\0\0\0{}")

    options = ["--python", training_env, "--site-packages", released("3.3.0")]
    done = invoke("migrate", saved, *options, "--json")

    (file,) = json.loads(done.stdout)["files"]
    assert (done.exit_code, file["state"], file["dropped"], file["added"]) == (0, "already-fits", [], [])


def torch_file(path: Path, content: Any) -> Path:
    """Write a file in the format of torch.save, without tensors."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return path


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def folder_with(folder: Path, name: str, aliases: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    if aliases is not None:
        (folder / "alias_to_model.pkl").write_bytes(pickle.dumps(aliases))
    return folder / name


class GetClass:
    """Reaches a class through one that the unpickler allows."""

    def __reduce__(self) -> tuple[Any, ...]:
        import collections

        return getattr, (collections.OrderedDict(), "__class__")


# torch before 2.6 has no sufficient restricted unpickler, so nfpatch uses its own there.
OWN_UNPICKLER = """
import json, runpy, sys
entry, tree, folder, with_static, *paths = sys.argv[1:]
sys.path[:0] = [tree]
runpy.run_path(entry)
import neuralforecast, torch
from nfpatch_target.saved import Refusal, formats, unpickling

unpickling.FIRST_TORCH_THAT_RESTRICTS = (99,)
results = []
for path in paths:
    try:
        results.append(sorted(formats.read_saved(path, trust=False).state)[:1])
    except Refusal as refusal:
        results.append(refusal.cause + ": " + str(refusal))
crippled = torch.load(with_static, map_location="cpu", weights_only=False)
for key in [key for key in crippled["state_dict"] if key.startswith("static_encoder.")]:
    del crippled["state_dict"][key]
torch.save(crippled, folder + "/TFT_crippled.ckpt")
untouched = neuralforecast.models.MLP(h=12, input_size=24)
content = {"hyper_parameters": dict(untouched.hparams), "state_dict": untouched.state_dict()}
torch.save(content, folder + "/epoch=3-step=1000.ckpt")
for name in sorted(vars(sys.modules["neuralforecast.losses.pytorch"])):  # every loss, through both unpicklers
    loss_class = vars(sys.modules["neuralforecast.losses.pytorch"])[name]
    if not (isinstance(loss_class, type) and issubclass(loss_class, torch.nn.Module)):
        continue
    for arguments in ({}, {"distribution": "Normal"}, {"distribution": "StudentT"}, {"q": 0.5}, {"seasonality": 12}):
        try:
            loss = loss_class(**arguments)
        except Exception:
            continue
        torch.save({"hyper_parameters": {"loss": loss}, "state_dict": {}}, folder + "/loss")
        for first in ((2, 6), (99,)):
            unpickling.FIRST_TORCH_THAT_RESTRICTS = first
            again = formats.read_saved(folder + "/loss", trust=False).hyper_parameters["loss"]
            assert type(again) is loss_class, name
            results.append(name)
print(json.dumps(results))
"""


@dataclass(frozen=True)
class Unpickled:
    """What nfpatch's own unpickler returned, and two files.

    `crippled` is a TFT with static features but without its static encoder; `untouched` is an MLP, which no patch
    changes, in a file whose name does not say so.
    """

    results: list[Any]
    evil_ran: bool
    crippled: Path
    untouched: Path


@pytest.fixture(scope="module")
def unpickled(transferred: Transferred, training_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Unpickled:
    folder = tmp_path_factory.mktemp("unpickled")
    marker = folder / "evil-ran"
    real = sorted((transferred.folder / "0").glob("*/fit/*.ckpt"))[:1]
    (with_static,) = (
        Path(r.files[0]["path"]) for r in transferred.results if r.transfer == "reverted" and r.case.exogenous
    )
    model = {"hyper_parameters": {}, "state_dict": {}}
    getting = torch_file(folder / "getattr.ckpt", {**model, "loops": GetClass()})
    evil = [torch_file(folder / "evil.ckpt", {**model, "loops": Evil(marker)}), getting, folder / "plain"]
    evil[-1].write_bytes(pickle.dumps(Evil(marker)))

    command = [training_env, "-c", OWN_UNPICKLER, ENTRY, transferred.original, folder, with_static, *real, *evil]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())

    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    return Unpickled(results, marker.exists(), folder / "TFT_crippled.ckpt", folder / "epoch=3-step=1000.ckpt")


def test_nfpatchs_own_unpickler_is_as_strict_as_that_of_torch(unpickled: Unpickled) -> None:
    real, *refused = unpickled.results[:4]
    assert isinstance(real, list)
    assert [cause.partition(": ")[0] for cause in refused[:3]] == ["code"] * 3
    assert "`posix.system`" in refused[0]
    assert "`builtins.getattr`" in refused[1]
    assert not unpickled.evil_ran


def test_both_unpicklers_load_every_loss(unpickled: Unpickled) -> None:
    losses = unpickled.results[4:]
    assert losses.count("DistributionLoss") == 4  # of two distributions
    assert {"MAE", "MQLoss", "HuberMQLoss", "IQLoss", "GMM", "PMM", "NBMM", "sCRPS", "Accuracy"} <= set(losses)


def test_files_that_are_not_fitting_models_are_refused_and_unchanged(
    transferred: Transferred, unpickled: Unpickled, training_env: Path, tmp_path: Path
) -> None:
    *_, saved = sorted((transferred.folder / "0").glob("*/saved/TFT_0.ckpt.nfpatch-backup"))
    marker = tmp_path / "evil-ran"
    hyper_parameters = {"h": 12, "input_size": 24}
    model = {"hyper_parameters": hyper_parameters, "state_dict": {}}
    expected: dict[Path, str] = {}

    def bad(path: Path, word: str, content: bytes | None = None) -> Path:
        if content is not None:
            path.write_bytes(content)
        expected[path] = word
        return path

    bad(tmp_path / "empty.ckpt", "no model", b"")
    bad(tmp_path / "text.ckpt", "no model", b"these are not the weights you are looking for")
    bad(tmp_path / "lfs.ckpt", "git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    bad(tmp_path / "half.ckpt", "truncated", saved.read_bytes()[: saved.stat().st_size // 2])
    bad(tmp_path / "newer.safetensors", "neuralforecast 3.3.0", b"\x02\0\0\0\0\0\0\0{}")
    like_a_pickle = b"\x80\0\0\0\0\0\0\0{" + bytes(200)  # a header of 128 bytes
    bad(tmp_path / "byte.safetensors", "neuralforecast 3.3.0", like_a_pickle)
    bad(tmp_path / "cut.safetensors", "truncated", b"\xff\0\0\0\0\0\0\0{")
    bad(torch_file(tmp_path / "state.ckpt", {"a": 1}), "`hyper_parameters`")
    bad(torch_file(tmp_path / "other.ckpt", model | {"hyper_parameters": {"depth": 1}}), "--model")
    bad(torch_file(tmp_path / "TFT_0.ckpt", model), "missing")
    bad(torch_file(tmp_path / "TFT_1.ckpt", model | {"hyper_parameters": {"h": 12}}), "TypeError")
    unknown = folder_with(tmp_path / "unknown", "Mine_0.ckpt", {"Mine": "timeless"})
    bad(torch_file(unknown, model), "timeless")
    bad(torch_file(tmp_path / "evil.ckpt", {**model, "loops": Evil(marker)}), "`posix.system`")
    bad(tmp_path / "TFT_2.ckpt", "`posix.system`", pickle.dumps(Evil(marker), protocol=2))
    bad(tmp_path / "TFT_3.ckpt", "torch.save", pickle.dumps(Evil(marker), protocol=4))
    bad(folder_with(tmp_path / "without", "notes.txt").parent, "no saved models")
    # unused in a TFT without static features; this one has static features
    bad(unpickled.crippled, "static_")
    # a checkpoint that does not name its class: the keys fit one class, and another without `out`
    (result,) = (r for r in transferred.results if (r.transfer, r.case.model) == ("reverted", "NBEATSx"))
    checkpoint = Path(result.files[1]["backup"])
    bad(shutil.copy(checkpoint, tmp_path / "step=3.ckpt"), "NBEATS, NBEATSx")
    before = {path: path.read_bytes() for path in expected if path.is_file()}

    options = ["--python", training_env, "--site-packages", transferred.original]
    done = invoke("migrate", *expected, unpickled.untouched, *options, "--json")

    files = {Path(file["path"]): file for file in json.loads(done.stdout)["files"]}
    assert done.exit_code == 3
    assert not marker.exists()
    assert {path for path, file in files.items() if file["state"] == "refused"} == set(expected)
    for path, word in expected.items():
        detail = files[path]["detail"]
        assert word in detail
        assert str(path) in detail
        assert "\n" not in detail
        assert (files[path]["dropped"], files[path]["added"]) == ([], [])
    assert "--trust" in files[tmp_path / "evil.ckpt"]["detail"]
    assert "--model" in files[tmp_path / "step=3.ckpt"]["detail"]
    assert (files[unpickled.untouched]["state"], files[unpickled.untouched]["model"]) == ("already-fits", "MLP")
    assert {path: path.read_bytes() for path in before} == before


@dataclass(frozen=True)
class Rerun:
    """What a second `migrate` reported for models that fit, a folder with a refused one, and a single file."""

    exit_code: int
    files: dict[Path, Any]
    touched: bool
    good: bytes
    folder: Path


@pytest.fixture(scope="module")
def rerun(transferred: Transferred, training_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Rerun:
    folder = tmp_path_factory.mktemp("again")
    (good,) = sorted((transferred.folder / "0").glob("*/saved/NBEATSx_0.ckpt.nfpatch-backup"))
    mixed = folder_with(folder / "mixed", "NBEATSx_0.ckpt")
    shutil.copy(good, mixed)
    (mixed.parent / "TFT_0.ckpt").write_bytes(b"nothing")
    shutil.copy(good, folder / "last.pt")  # a name without a class
    wrapped = folder_with(folder / "wrapped", "HINT_0.ckpt", {"HINT": "hint", "AutoNBEATSx": "autonbeatsx"})
    shutil.copy(good, wrapped)
    shutil.copy(good, wrapped.with_name("AutoNBEATSx_0.ckpt"))
    fitting = sorted((transferred.folder / "0").glob("*/saved"))
    before = {file: file.stat() for path in fitting for file in path.iterdir()}

    options = ["--python", training_env, "--site-packages", transferred.patched_tree, "--no-backup", "--json"]
    done = invoke("migrate", *fitting, mixed.parent, wrapped.parent, os.path.relpath(folder / "last.pt"), *options)

    files = {Path(os.path.abspath(file["path"])): file for file in json.loads(done.stdout)["files"]}
    touched = {file: file.stat() for path in fitting for file in path.iterdir()} != before
    return Rerun(done.exit_code, files, touched, good.read_bytes(), folder)


def test_a_second_run_changes_nothing(rerun: Rerun, transferred: Transferred) -> None:
    fitting = [file["state"] for path, file in rerun.files.items() if transferred.folder in path.parents]
    assert fitting == ["already-fits"] * 3
    assert not rerun.touched


def test_a_folder_with_a_refused_model_is_unchanged_and_others_are_migrated(rerun: Rerun) -> None:
    files = {path.name: file for path, file in rerun.files.items() if rerun.folder in path.parents}
    assert rerun.exit_code == 3
    assert {name: file["state"] for name, file in files.items()} == {
        "NBEATSx_0.ckpt": "refused",
        "TFT_0.ckpt": "refused",
        "last.pt": "migrated",
        "HINT_0.ckpt": "migrated",
        "AutoNBEATSx_0.ckpt": "migrated",
    }
    assert {file["model"] for file in files.values()} == {"NBEATSx", None}
    assert "TFT_0.ckpt" in files["NBEATSx_0.ckpt"]["detail"]
    assert (rerun.folder / "mixed" / "NBEATSx_0.ckpt").read_bytes() == rerun.good
    assert (rerun.folder / "last.pt").read_bytes() != rerun.good
    assert sorted(path.name for path in rerun.folder.iterdir()) == ["last.pt", "mixed", "wrapped"]
