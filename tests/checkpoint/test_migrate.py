"""Real models on their way to another source, and files that are no models, in the interpreter that trains."""

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
class Travelled:
    """Where the models are after their transfers, and how they fared."""

    folder: Path
    original: Path
    healed: Path
    results: list[MigrationCheck]


@pytest.fixture(scope="module")
def travelled(training_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Travelled:
    folder = tmp_path_factory.mktemp("transfers")
    original = unpack("1.7.4", folder / "original")
    healed = patched(original, folder / "healed")
    newer = unpack("1.7.7", folder / "newer")
    cases = cases_of("1.7.4")
    upgraded = tuple(filter(is_resized, cases))
    transfers = [
        Transfer("applied", original, healed, cases),
        Transfer("reverted", healed, original, cases),
        Transfer("upgraded", original, newer, upgraded),
    ]
    return Travelled(folder, original, healed, prove(transfers, training_env, folder))


def test_forecasts_and_resumed_fits_are_bit_for_bit_what_they_were(travelled: Travelled) -> None:
    assert len(travelled.results) == 8
    assert [result for result in travelled.results if not result.holds] == []


def test_without_it_they_do_not_load_and_the_page_has_the_words(travelled: Travelled) -> None:
    page = (ROOT / "docs" / "how-to" / "saved-models.md").read_text()
    for result in (result for result in travelled.results if is_resized(result.case)):
        words = (
            "Missing key(s) in state_dict: " if result.transfer == "reverted" else "Unexpected key(s) in state_dict: "
        )
        assert words in result.before
        assert words in page


def test_a_model_whose_layers_are_frozen_loads_as_it_is(travelled: Travelled) -> None:
    frozen = [result for result in travelled.results if not is_resized(result.case)]
    assert {(result.transfer, result.case.model, result.case.exogenous) for result in frozen} == {
        ("applied", "TFT", ("static",)),
        ("reverted", "TFT", ("static",)),
    }
    assert {result.before for result in frozen} == {""}


def test_only_the_dead_keys_go_and_come(travelled: Travelled) -> None:
    changes = {
        (result.transfer, result.case.model, result.case.exogenous): [
            (len(file["dropped"]), len(file["added"])) for file in result.files
        ]
        for result in travelled.results
    }
    assert changes[("applied", "NBEATSx", ())] == [(2, 0)] * 3  # the saved model, and two checkpoints of the fit
    assert changes[("applied", "TFT", ())] == [(41, 0)] * 3
    assert changes[("applied", "TFT", ("static",))] == [(0, 0)] * 3
    assert changes[("reverted", "NBEATSx", ())] == [(0, 2)] * 3
    assert changes[("reverted", "TFT", ())] == [(0, 41)] * 3
    assert changes[("upgraded", "TFT", ())] == [(41, 0)] * 3


SAME_BUT_FOR = """
import sys, types
sys.path.insert(0, sys.argv[1])
import neuralforecast, torch

seen = set()  # callbacks lead to the model, and that back to them

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


def test_all_else_in_a_checkpoint_is_carried_over(travelled: Travelled, training_env: Path) -> None:
    (result,) = (r for r in travelled.results if (r.transfer, r.case.model) == ("applied", "NBEATSx"))
    path = Path(result.files[1]["path"])
    kept = path.with_name(path.name + ".nfpatch-backup")

    command = [training_env, "-c", SAME_BUT_FOR, travelled.healed, path, kept]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    places = done.stdout.splitlines()
    assert {"/state_dict/out.weight", "/state_dict/out.bias"} <= set(places)
    # the positions of the optimizer's entries have moved up, those of two dead parameters are gone
    assert [p for p in places if not p.startswith(("/state_dict/out.", "/optimizer_states/0/"))] == []


def test_models_of_3_3_0_fit_unread(released: Callable[[str], Path], training_env: Path, tmp_path: Path) -> None:
    saved = tmp_path / "TFT_0.safetensors"
    saved.write_bytes(b"\x02\0\0\0\0\0\0\0{}")

    options = ["--python", training_env, "--site-packages", released("3.3.0")]
    done = invoke("migrate", saved, *options, "--json")

    (file,) = json.loads(done.stdout)["files"]
    assert (done.exit_code, file["state"], file["dropped"], file["added"]) == (0, "already-fits", [], [])
    assert "not read" in file["detail"]


def torch_file(path: Path, content: Any) -> Path:
    """A file as torch.save writes it, without tensors."""
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
    """Gets at a class through one that is let in."""

    def __reduce__(self) -> tuple[Any, ...]:
        import collections

        return getattr, (collections.OrderedDict(), "__class__")


# Releases of torch before 2.6 have no restricted unpickler that would do; nfpatch's own takes its place there.
OWN_UNPICKLER = """
import json, runpy, sys
entry, tree, folder, with_static, *paths = sys.argv[1:]
sys.path[:0] = [tree]
runpy.run_path(entry)
import neuralforecast, torch
from nfpatch_target.saved import formats, refusals, unpickling

unpickling.FIRST_TORCH_THAT_RESTRICTS = (99,)
told = []
for path in paths:
    try:
        told.append(sorted(formats.saved_in(path, trust=False).state)[:1])
    except refusals.Refusal as refusal:
        told.append(refusal.cause + ": " + str(refusal))
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
            again = formats.saved_in(folder + "/loss", trust=False).hyper_parameters["loss"]
            assert type(again) is loss_class, name
            told.append(name)
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Unpickled:
    """What nfpatch's own unpickler did, and two files.

    `crippled` is a TFT with static features whose static encoder somebody took out, `untouched` an MLP, which no patch
    touches, under a name that tells nothing.
    """

    told: list[Any]
    evil_ran: bool
    crippled: Path
    untouched: Path


@pytest.fixture(scope="module")
def unpickled(travelled: Travelled, training_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Unpickled:
    folder = tmp_path_factory.mktemp("unpickled")
    marker = folder / "evil-ran"
    real = sorted((travelled.folder / "0").glob("*/fit/*.ckpt"))[:1]
    (with_static,) = (
        Path(r.files[0]["path"]) for r in travelled.results if r.transfer == "reverted" and r.case.exogenous
    )
    model = {"hyper_parameters": {}, "state_dict": {}}
    getting = torch_file(folder / "getattr.ckpt", {**model, "loops": GetClass()})
    evil = [torch_file(folder / "evil.ckpt", {**model, "loops": Evil(marker)}), getting, folder / "plain"]
    evil[-1].write_bytes(pickle.dumps(Evil(marker)))

    command = [training_env, "-c", OWN_UNPICKLER, ENTRY, travelled.original, folder, with_static, *real, *evil]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    return Unpickled(told, marker.exists(), folder / "TFT_crippled.ckpt", folder / "epoch=3-step=1000.ckpt")


def test_without_the_restricted_unpickler_of_torch_nfpatchs_own_is_as_strict(unpickled: Unpickled) -> None:
    real, *refused = unpickled.told[:4]
    assert isinstance(real, list)
    assert refused[0].startswith("code: wants to use `posix.system`")
    assert refused[1].startswith("code: wants to use `builtins.getattr`")
    assert refused[2].startswith("code: ")
    assert not unpickled.evil_ran


def test_every_loss_is_let_in_by_both_unpicklers(unpickled: Unpickled) -> None:
    losses = unpickled.told[4:]
    assert losses.count("DistributionLoss") == 4  # of two distributions
    assert {"MAE", "MQLoss", "HuberMQLoss", "IQLoss", "GMM", "PMM", "NBMM", "sCRPS", "Accuracy"} <= set(losses)


def test_what_is_no_model_that_fits_is_refused_in_one_paragraph_each_and_stays(
    travelled: Travelled, unpickled: Unpickled, training_env: Path, tmp_path: Path
) -> None:
    *_, saved = sorted((travelled.folder / "0").glob("*/saved/TFT_0.ckpt.nfpatch-backup"))
    marker = tmp_path / "evil-ran"
    hyper_parameters = {"h": 12, "input_size": 24}
    model = {"hyper_parameters": hyper_parameters, "state_dict": {}}
    expected: dict[Path, str] = {}

    def bad(path: Path, words: str, content: bytes | None = None) -> Path:
        if content is not None:
            path.write_bytes(content)
        expected[path] = words
        return path

    bad(tmp_path / "empty.ckpt", "is no model file", b"")
    bad(tmp_path / "text.ckpt", "is no model file", b"these are not the weights you are looking for")
    bad(tmp_path / "lfs.ckpt", "git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    bad(tmp_path / "half.ckpt", "is truncated", saved.read_bytes()[: saved.stat().st_size // 2])
    bad(tmp_path / "newer.safetensors", "format of neuralforecast 3.3.0", b"\x02\0\0\0\0\0\0\0{}")
    like_a_pickle = b"\x80\0\0\0\0\0\0\0{" + bytes(200)  # a header of 128 bytes
    bad(tmp_path / "byte.safetensors", "format of neuralforecast 3.3.0", like_a_pickle)
    bad(tmp_path / "cut.safetensors", "is truncated", b"\xff\0\0\0\0\0\0\0{")
    bad(torch_file(tmp_path / "state.ckpt", {"a": 1}), "lacks `hyper_parameters` or `state_dict`")
    bad(torch_file(tmp_path / "other.ckpt", model | {"hyper_parameters": {"depth": 1}}), "it fits none. ")
    bad(torch_file(tmp_path / "TFT_0.ckpt", model), "missing: ")
    bad(torch_file(tmp_path / "TFT_1.ckpt", model | {"hyper_parameters": {"h": 12}}), "builds no TFT: TypeError")
    unknown = folder_with(tmp_path / "unknown", "Mine_0.ckpt", {"Mine": "timeless"})
    bad(torch_file(unknown, model), "of class timeless, which neuralforecast 1.7.4 does not have")
    bad(torch_file(tmp_path / "evil.ckpt", {**model, "loops": Evil(marker)}), "wants to use `posix.system`")
    bad(tmp_path / "TFT_2.ckpt", "wants to use `posix.system`", pickle.dumps(Evil(marker), protocol=2))
    bad(tmp_path / "TFT_3.ckpt", "no file that torch.save wrote", pickle.dumps(Evil(marker), protocol=4))
    bad(folder_with(tmp_path / "without", "notes.txt").parent, "no saved models")
    # dead in a TFT without static features, and by its name declared so; but this one uses it
    bad(unpickled.crippled, "lacks keys that are not known to be unused in TFT of neuralforecast 1.7.4: static_")
    # of a checkpoint that does not tell its class, one class has the keys as they are, another lacks `out`
    (result,) = (r for r in travelled.results if (r.transfer, r.case.model) == ("reverted", "NBEATSx"))
    checkpoint = Path(result.files[1]["backup"])
    bad(shutil.copy(checkpoint, tmp_path / "step=3.ckpt"), "it fits several: NBEATS, NBEATSx. ")
    before = {path: path.read_bytes() for path in expected if path.is_file()}

    options = ["--python", training_env, "--site-packages", travelled.original]
    done = invoke("migrate", *expected, unpickled.untouched, *options, "--json")

    files = {Path(file["path"]): file for file in json.loads(done.stdout)["files"]}
    assert done.exit_code == 3
    assert not marker.exists()
    assert {path for path, file in files.items() if file["state"] == "refused"} == set(expected)
    for path, words in expected.items():
        detail = files[path]["detail"]
        assert words in detail
        assert str(path) in detail
        assert "\n" not in detail
        assert (files[path]["dropped"], files[path]["added"]) == ([], [])
    assert "--trust" in files[tmp_path / "evil.ckpt"]["detail"]
    assert "--model" in files[tmp_path / "step=3.ckpt"]["detail"]
    assert (files[unpickled.untouched]["state"], files[unpickled.untouched]["model"]) == ("already-fits", "MLP")
    assert {path: path.read_bytes() for path in before} == before


@dataclass(frozen=True)
class OnceMore:
    """What a second command said of models that fit, of a folder with one that is refused, and of a single file."""

    exit_code: int
    files: dict[Path, Any]
    touched: bool
    good: bytes
    folder: Path


@pytest.fixture(scope="module")
def once_more(travelled: Travelled, training_env: Path, tmp_path_factory: pytest.TempPathFactory) -> OnceMore:
    folder = tmp_path_factory.mktemp("again")
    (good,) = sorted((travelled.folder / "0").glob("*/saved/NBEATSx_0.ckpt.nfpatch-backup"))
    mixed = folder_with(folder / "mixed", "NBEATSx_0.ckpt")
    shutil.copy(good, mixed)
    (mixed.parent / "TFT_0.ckpt").write_bytes(b"nothing")
    shutil.copy(good, folder / "last.pt")  # a name that tells nothing
    wrapped = folder_with(folder / "wrapped", "HINT_0.ckpt", {"HINT": "hint", "AutoNBEATSx": "autonbeatsx"})
    shutil.copy(good, wrapped)
    shutil.copy(good, wrapped.with_name("AutoNBEATSx_0.ckpt"))
    fitting = sorted((travelled.folder / "0").glob("*/saved"))
    before = {file: file.stat() for path in fitting for file in path.iterdir()}

    options = ["--python", training_env, "--site-packages", travelled.healed, "--no-backup", "--json"]
    done = invoke("migrate", *fitting, mixed.parent, wrapped.parent, os.path.relpath(folder / "last.pt"), *options)

    files = {Path(os.path.abspath(file["path"])): file for file in json.loads(done.stdout)["files"]}
    touched = {file: file.stat() for path in fitting for file in path.iterdir()} != before
    return OnceMore(done.exit_code, files, touched, good.read_bytes(), folder)


def test_a_second_run_finds_that_they_fit_and_touches_nothing(once_more: OnceMore, travelled: Travelled) -> None:
    fitting = [file["state"] for path, file in once_more.files.items() if travelled.folder in path.parents]
    assert fitting == ["already-fits"] * 3
    assert not once_more.touched


def test_a_folder_with_a_model_that_is_refused_stays_as_it_is_and_others_do_not(once_more: OnceMore) -> None:
    files = {path.name: file for path, file in once_more.files.items() if once_more.folder in path.parents}
    assert once_more.exit_code == 3
    assert {name: file["state"] for name, file in files.items()} == {
        "NBEATSx_0.ckpt": "refused",
        "TFT_0.ckpt": "refused",
        "last.pt": "migrated",
        "HINT_0.ckpt": "migrated",
        "AutoNBEATSx_0.ckpt": "migrated",
    }
    assert {file["model"] for file in files.values()} == {"NBEATSx", None}
    assert "TFT_0.ckpt" in files["NBEATSx_0.ckpt"]["detail"]
    assert (once_more.folder / "mixed" / "NBEATSx_0.ckpt").read_bytes() == once_more.good
    assert (once_more.folder / "last.pt").read_bytes() != once_more.good
    assert sorted(path.name for path in once_more.folder.iterdir()) == ["last.pt", "mixed", "wrapped"]
