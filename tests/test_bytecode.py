"""After apply and revert the interpreter runs the current source, whatever bytecode there was before.

The tests get the code that it would run from the interpreter's own import machinery, without importing neuralforecast,
which would require torch.
"""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
from support import (
    NBEATSX,
    PACKAGE_OF_MODULES,
    SOME_PATCHES,
    TFT,
    environment,
    false_record_rows,
    interpreters,
    invoke,
    on_some,
    snapshot,
)

pytestmark = [pytest.mark.fake_releases, pytest.mark.slow]

MODES = [mode.name for mode in py_compile.PycInvalidationMode]
OLD = 1_600_000_000  # the source's time, in seconds
# Both run in every interpreter, so they must be valid Python 3.7.
COMPILE = """
import py_compile, sys
mode, *paths = sys.argv[1:]
for path in paths:
    for level in (0, 1):
        py_compile.compile(path, doraise=True, optimize=level, invalidation_mode=py_compile.PycInvalidationMode[mode])
"""
RUN = """
import importlib.util, json, sys, types

def shape(code):
    constants = [shape(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return [code.co_name, list(code.co_names), list(code.co_varnames), constants, code.co_code.hex()]

answer = {}
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("module", path)
    code = spec.loader.get_code("module")
    with open(path, "rb") as file:
        truth = compile(file.read(), path, "exec", dont_inherit=True)
    answer[path] = shape(code) == shape(truth)
print(json.dumps(answer))
"""


OWN_PATCH = """
from nfpatch.catalog import Patch
from nfpatch.codemod import Change, Rewrite

patch = Patch(
    id="own",
    summary="fake",
    group="multi-process",
    model="MLP",
    upstream="fake",
    variants={
        "==1.7.4": {
            "neuralforecast/models/mlp.py": Rewrite(
                (Change("", "import torch", "import torch\\nNUMBER = own_number.NUMBER"),), imports=("own_number",)
            )
        }
    },
    unaffected={"!=1.7.4": "fake"},
    cases=(),
)
"""


def ask(python: Path, script: str, *arguments: object, **variables: str) -> str:
    inherited = {name: value for name, value in environment().items() if not name.startswith("PYTHON")}
    command = [str(python), "-c", script, *map(str, arguments)]
    return subprocess.run(command, env={**inherited, **variables}, capture_output=True, text=True, check=True).stdout


def runs_the_source(python: Path, site: Path, **variables: str) -> list[bool]:
    """Whether this interpreter would run the current source, for both files. Writes no bytecode."""
    values = json.loads(ask(python, RUN, site / NBEATSX, site / TFT, PYTHONDONTWRITEBYTECODE="1", **variables))
    return [values[str(site / file)] for file in (NBEATSX, TFT)]


def check_that_each_runs_the_source(pythons: list[Path], site: Path, is_patched: bool, **variables: str) -> None:
    assert ("self.out = " not in (site / NBEATSX).read_text()) == is_patched
    assert ("if self.stat_exog_size > 0:\n            self.static_encoder = " in (site / TFT).read_text()) == is_patched
    for python in pythons:
        assert runs_the_source(python, site, **variables) == [True, True], python


def own_patch(folder: Path, number: int) -> Path:
    """A folder with a user's patch and this version of its runtime module."""
    (folder / "runtime").mkdir(parents=True)
    (folder / "own.py").write_text(OWN_PATCH)
    (folder / "runtime" / "own_number.py").write_text(f"NUMBER = {number}\n")
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_an_added_module_runs_and_revert_leaves_no_bytecode(
    mode: str, site: Path, pythons: list[Path], tmp_path: Path
) -> None:
    before = snapshot(site)
    module = site / PACKAGE_OF_MODULES / "own_number.py"
    for number in (1, 2):
        where = ("--patches", own_patch(tmp_path / str(number), number), "--site-packages", site)
        assert invoke("apply", "own", "--allow-modified", *where).exit_code == 0
        assert module.read_text() == f"NUMBER = {number}\n"
        os.utime(module, (OLD, OLD))  # same time and size, so that only the content differs
        for python in pythons:
            values = json.loads(ask(python, RUN, module, PYTHONDONTWRITEBYTECODE="1"))
            assert values == {str(module): True}, (number, python)
            ask(python, COMPILE, mode, module)
        assert len(list((module.parent / "__pycache__").glob("own_number.*.pyc"))) == 2 * len(pythons)
    assert invoke("revert", *where).exit_code == 0
    assert snapshot(site) == before


def touch_sources(site: Path) -> None:
    for file in (NBEATSX, TFT):
        os.utime(site / file, (OLD, OLD))


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pythons() -> list[Path]:
    return list(interpreters().values())


@pytest.mark.parametrize("mode", MODES)
def test_every_interpreter_runs_the_current_source_after_apply_and_revert(
    mode: str, site: Path, pythons: list[Path]
) -> None:
    touch_sources(site)
    for python in pythons:
        ask(python, COMPILE, mode, site / NBEATSX, site / TFT)
    cache = (site / TFT).parent / "__pycache__"
    assert len(list(cache.glob("tft.*.pyc"))) == 2 * len(pythons)
    (cache / f"tft.{sys.implementation.cache_tag}.pyc").chmod(0o600)
    before, before_times = snapshot(site), times(site)

    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    check_that_each_runs_the_source(pythons, site, is_patched=True)
    assert false_record_rows(site) == []
    for python in pythons:
        ask(python, COMPILE, mode, site / NBEATSX, site / TFT)

    assert invoke("revert", "--site-packages", site).exit_code == 0
    check_that_each_runs_the_source(pythons, site, is_patched=False)
    assert snapshot(site) == before
    assert times(site) == before_times


def test_bytecode_of_the_patched_source_is_removed_by_revert(site: Path, pythons: list[Path]) -> None:
    pythons = [pythons[0], pythons[-1]]
    touch_sources(site)
    before = snapshot(site)
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    for python in pythons:
        ask(python, COMPILE, "UNCHECKED_HASH", site / NBEATSX, site / TFT)
    check_that_each_runs_the_source(pythons, site, is_patched=True)
    assert invoke("revert", "--site-packages", site).exit_code == 0
    check_that_each_runs_the_source(pythons, site, is_patched=False)
    assert snapshot(site) == before


def test_stale_bytecode_with_an_unchecked_hash_would_run_if_it_were_kept(site: Path) -> None:
    # this is why nfpatch removes it, and shows that these tests can fail
    python = Path(sys.executable)
    ask(python, COMPILE, "UNCHECKED_HASH", site / NBEATSX, site / TFT)
    stale = (site / TFT).parent / "__pycache__" / f"tft.{sys.implementation.cache_tag}.pyc"
    content = stale.read_bytes()
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    assert runs_the_source(python, site) == [True, True]
    stale.write_bytes(content)
    assert runs_the_source(python, site) == [True, False]


def test_an_interpreter_with_a_cache_prefix_notices_both_changes(site: Path, tmp_path: Path) -> None:
    # PYTHONPYCACHEPREFIX requires 3.8. nfpatch cannot know such folders; Python compares the times of the sources
    pythons = [python for version, python in interpreters().items() if version >= (3, 8)]
    prefix = str(tmp_path / "prefix")
    touch_sources(site)

    for python in pythons:
        ask(python, COMPILE, "TIMESTAMP", site / NBEATSX, site / TFT, PYTHONPYCACHEPREFIX=prefix)
    assert not (site / TFT).parent.joinpath("__pycache__").exists()
    before = snapshot(site)
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    check_that_each_runs_the_source(pythons, site, is_patched=True, PYTHONPYCACHEPREFIX=prefix)
    for python in pythons:
        ask(python, COMPILE, "TIMESTAMP", site / NBEATSX, site / TFT, PYTHONPYCACHEPREFIX=prefix)
    assert invoke("revert", "--site-packages", site).exit_code == 0
    check_that_each_runs_the_source(pythons, site, is_patched=False, PYTHONPYCACHEPREFIX=prefix)
    assert snapshot(site) == before


def test_nfpatch_itself_may_run_under_a_cache_prefix(site: Path, tmp_path: Path) -> None:
    python = Path(sys.executable)
    ask(python, COMPILE, "UNCHECKED_HASH", site / NBEATSX, site / TFT)
    before = snapshot(site)
    prefixed = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "prefix")}
    for is_patched, command in ((True, "apply"), (False, "revert")):
        arguments = [sys.executable, "-m", "nfpatch", *on_some(command), "--site-packages", str(site)]
        subprocess.run(arguments, env=prefixed, capture_output=True, check=True)
        check_that_each_runs_the_source([python], site, is_patched)
    assert snapshot(site) == before


def test_a_pycache_folder_that_links_out_of_site_packages_is_unchanged(site: Path, tmp_path: Path) -> None:
    ask(Path(sys.executable), COMPILE, "CHECKED_HASH", site / NBEATSX, site / TFT)
    cache = (site / TFT).parent / "__pycache__"
    outside = tmp_path / "outside"
    cache.rename(outside)
    cache.symlink_to(outside)
    before = snapshot(site), snapshot(outside), times(outside)
    code = invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code
    assert code in (0, 3)
    assert (snapshot(outside), times(outside)) == before[1:]
    if code == 0:
        assert invoke("revert", "--site-packages", site).exit_code == 0
    assert (snapshot(site), snapshot(outside), times(outside)) == before
