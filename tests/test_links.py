"""Links: their targets are never written, and revert restores the links."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import wheel_of
from support import (
    NBEATSX,
    PACKAGE_OF_MODULES,
    PLACEMENT,
    SOME_PATCHES,
    TFT,
    dist_info,
    environment,
    false_record_rows,
    invoke,
    make_venv,
    on_some,
    run_nfpatch,
    site_packages_of,
    snapshot,
    states,
)

pytestmark = pytest.mark.fake_releases

NEEDED = {"nbeatsx-unused-out": "applicable", "tft-static-encoder": "applicable"}


def times(folder: Path) -> dict[str, int]:
    """The modification time of each file and link below a folder."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns for path in paths}


def needed_states(site: Path) -> dict[str, str]:
    return {patch: state for patch, state in states(site).items() if patch in NEEDED}


# --- two environments with one package cache


@pytest.fixture
def installed_twice(uv_executable: Path, tmp_path: Path) -> Callable[[str], tuple[Path, Path, Path]]:
    """Installs 1.7.4 with uv into two environments from one package cache; returns both site-packages and the cache."""

    def install(link_mode: str) -> tuple[Path, Path, Path]:
        cache = tmp_path / "cache"
        sites = []
        for name in ("one", "two"):
            python = make_venv(tmp_path / name)
            command = [
                uv_executable,
                "pip",
                "install",
                "--python",
                python,
                "--offline",
                "--no-deps",
                "--cache-dir",
                cache,
            ]
            subprocess.run(
                [*command, "--link-mode", link_mode, wheel_of("1.7.4")],
                env=environment(),
                capture_output=True,
                check=True,
            )
            sites.append(site_packages_of(python))
        return sites[0], sites[1], cache

    return install


@pytest.mark.wheels
@pytest.mark.parametrize("link_mode", ["hardlink", "copy", "symlink"])
def test_a_package_cache_and_the_other_environment_are_unchanged(
    link_mode: str, installed_twice: Callable[[str], tuple[Path, Path, Path]]
) -> None:
    site, twin, cache = installed_twice(link_mode)
    in_cache = [path for path in cache.rglob("tft.py") if path.is_file()]
    assert (site / TFT).is_symlink() == (link_mode == "symlink")
    assert any(path.samefile(site / TFT) for path in in_cache) == (link_mode != "copy")
    assert (site / TFT).samefile(twin / TFT) == (link_mode != "copy")
    before = snapshot(site)
    others = [(folder, snapshot(folder), times(folder)) for folder in (cache, twin)]

    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    assert needed_states(site) == dict.fromkeys(NEEDED, "applied")
    assert not (site / TFT).is_symlink()
    assert not (site / TFT).samefile(twin / TFT)
    assert false_record_rows(site) == []
    for folder, content, changed in others:
        assert (snapshot(folder), times(folder)) == (content, changed)
    assert needed_states(twin) == NEEDED

    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site) == before
    assert any(path.samefile(site / TFT) for path in in_cache) == (link_mode != "copy")
    for folder, content, changed in others:
        assert (snapshot(folder), times(folder)) == (content, changed)


@pytest.mark.wheels
@pytest.mark.parametrize("link_mode", ["hardlink", "symlink"])
def test_both_environments_can_be_patched_and_reverted_one_after_the_other(
    link_mode: str, installed_twice: Callable[[str], tuple[Path, Path, Path]]
) -> None:
    site, twin, cache = installed_twice(link_mode)
    before = [(snapshot(folder), times(folder)) for folder in (site, twin, cache)]
    for command in ("apply", "revert"):
        for folder in (site, twin):
            assert invoke(*on_some(command), "--site-packages", folder).exit_code == 0
            assert false_record_rows(folder) == []
    assert [(snapshot(folder), times(folder)) for folder in (site, twin)] == [
        (content, {**changed, **times_of_links(folder)}) for (content, changed), folder in zip(before, (site, twin))
    ]
    assert (snapshot(cache), times(cache)) == before[2]


def times_of_links(folder: Path) -> dict[str, int]:
    """The times of links; revert does not restore them, as nothing reads them."""
    return {name: time for name, time in times(folder).items() if (folder / name).is_symlink()}


# --- links of every kind


def move_to_cache(site: Path, file: str = TFT) -> Path:
    """Move a file into a folder outside of site-packages, like a package cache; its new path."""
    target = site.parent / "cache" / Path(file).name
    target.parent.mkdir(exist_ok=True)
    (site / file).rename(target)
    return target


def chain(site: Path) -> None:
    target = move_to_cache(site)
    for name in ("one", "two", "three"):
        link = target.with_name(name)
        link.symlink_to(target)
        target = link
    (site / TFT).symlink_to(target)


def relative_target(site: Path) -> None:
    target = move_to_cache(site)
    (site / TFT).symlink_to(os.path.relpath(target, (site / TFT).parent))


def sibling_target(site: Path) -> None:
    (site / TFT).rename((site / TFT).with_name("tft_real.py"))
    (site / TFT).symlink_to("tft_real.py")


def two_files(site: Path) -> None:
    (site / TFT).symlink_to(move_to_cache(site))
    (site / NBEATSX).symlink_to(move_to_cache(site, NBEATSX))


def read_only_target(site: Path) -> None:
    target = move_to_cache(site)
    target.chmod(0o444)
    (site / TFT).symlink_to(target)


def target_with_an_odd_name(site: Path) -> None:
    target = move_to_cache(site)
    odd = target.with_name("tft \N{SNOWMAN} %s\\.py")
    target.rename(odd)
    (site / TFT).symlink_to(odd)


def linked_record_and_metadata(site: Path) -> None:
    for name in ("RECORD", "METADATA"):
        path = dist_info(site) / name
        target = site.parent / f"cache-{name}"
        path.rename(target)
        path.symlink_to(target)


def folder_linked_within_site_packages(site: Path) -> None:
    models = site / "neuralforecast" / "models"
    models.rename(models.with_name("_models"))
    models.symlink_to("_models")


def site_packages_reached_through_a_link(site: Path) -> None:
    site.rename(site.with_name("real-site"))
    site.symlink_to("real-site")


@pytest.mark.parametrize(
    "linked",
    [
        chain,
        relative_target,
        sibling_target,
        two_files,
        read_only_target,
        target_with_an_odd_name,
        linked_record_and_metadata,
        folder_linked_within_site_packages,
        site_packages_reached_through_a_link,
    ],
)
def test_the_target_of_a_link_is_unchanged_and_revert_restores_the_link(
    linked: Callable[[Path], None], site: Path
) -> None:
    linked(site)
    before, before_times = snapshot(site.parent), times(site.parent)
    targets = [path for path in site.parent.rglob("*") if path.is_symlink()]
    assert targets
    assert invoke("apply", *SOME_PATCHES, "--site-packages", site).exit_code == 0
    assert needed_states(site) == dict.fromkeys(NEEDED, "applied")
    assert false_record_rows(site) == []
    outside = {path: entry for path, entry in snapshot(site.parent).items() if path.startswith("cache")}
    assert outside == {path: entry for path, entry in before.items() if path.startswith("cache")}

    assert invoke("revert", "--site-packages", site).exit_code == 0
    assert snapshot(site.parent) == before
    after_times = times(site.parent)
    assert {name: time for name, time in after_times.items() if not (site.parent / name).is_symlink()} == {
        name: time for name, time in before_times.items() if not (site.parent / name).is_symlink()
    }


# --- dangling and circular links, and links out of site-packages


def dangling(site: Path) -> None:
    (site / TFT).unlink()
    (site / TFT).symlink_to("nowhere.py")


def dangling_out_of_site_packages(site: Path) -> None:
    (site / TFT).unlink()
    (site / TFT).symlink_to(site.parent / "gone" / "tft.py")


def file_to_itself(site: Path) -> None:
    (site / TFT).unlink()
    (site / TFT).symlink_to("tft.py")


def files_to_each_other(site: Path) -> None:
    for file, other in ((TFT, NBEATSX), (NBEATSX, TFT)):
        (site / file).unlink()
        (site / file).symlink_to(Path(other).name)


def folder_to_itself(site: Path) -> None:
    shutil.rmtree(site / "neuralforecast" / "models")
    (site / "neuralforecast" / "models").symlink_to("models")


def folder_to_its_parent(site: Path) -> None:
    shutil.rmtree(site / "neuralforecast" / "models")
    (site / "neuralforecast" / "models").symlink_to("..")


def folder_out_of_site_packages(site: Path) -> None:
    models = site / "neuralforecast" / "models"
    models.rename(site.parent / "elsewhere")
    models.symlink_to(site.parent / "elsewhere")


def package_out_of_site_packages(site: Path) -> None:
    (site / "neuralforecast").rename(site.parent / "elsewhere")
    (site / "neuralforecast").symlink_to(site.parent / "elsewhere")


def dist_info_out_of_site_packages(site: Path) -> None:
    folder = dist_info(site)
    folder.rename(site.parent / "elsewhere")
    folder.symlink_to(site.parent / "elsewhere")


def kept_folder_out_of_site_packages(site: Path) -> None:
    (site.parent / "elsewhere").mkdir()
    (dist_info(site) / "nfpatch").symlink_to(site.parent / "elsewhere")


def lock_out_of_site_packages(site: Path) -> None:
    (site.parent / "precious").write_text("precious")
    (dist_info(site) / "nfpatch.lock").symlink_to(site.parent / "precious")


def added_files_out_of_site_packages(site: Path) -> None:
    (site.parent / "elsewhere").mkdir()
    (site / PACKAGE_OF_MODULES).symlink_to(site.parent / "elsewhere")


def added_files_to_themselves(site: Path) -> None:
    (site / PACKAGE_OF_MODULES).symlink_to("_nfpatch")


def added_file_to_a_file_outside(site: Path) -> None:
    (site.parent / "precious.py").write_text("precious = True\n")
    (site / PLACEMENT).parent.mkdir()
    (site / PLACEMENT).symlink_to(site.parent / "precious.py")


def compiled_added_files_out_of_site_packages(site: Path) -> None:
    (site.parent / "elsewhere").mkdir()
    (site.parent / "elsewhere" / "placement.cpython-311.pyc").write_bytes(b"compiled")
    (site / PLACEMENT).parent.mkdir()
    (site / PLACEMENT).parent.joinpath("__pycache__").symlink_to(site.parent / "elsewhere")


def record_to_itself(site: Path) -> None:
    (dist_info(site) / "RECORD").unlink()
    (dist_info(site) / "RECORD").symlink_to("RECORD")


def metadata_to_itself(site: Path) -> None:
    (dist_info(site) / "METADATA").unlink()
    (dist_info(site) / "METADATA").symlink_to("METADATA")


def target_is_a_folder(site: Path) -> None:
    (site / TFT).unlink()
    (site / TFT).mkdir()


def target_links_to_a_folder(site: Path) -> None:
    (site / TFT).unlink()
    (site / TFT).symlink_to(site.parent)


@pytest.mark.parametrize(
    "broken",
    [
        dangling,
        dangling_out_of_site_packages,
        file_to_itself,
        files_to_each_other,
        folder_to_itself,
        folder_to_its_parent,
        folder_out_of_site_packages,
        package_out_of_site_packages,
        dist_info_out_of_site_packages,
        kept_folder_out_of_site_packages,
        lock_out_of_site_packages,
        added_files_out_of_site_packages,
        added_files_to_themselves,
        added_file_to_a_file_outside,
        compiled_added_files_out_of_site_packages,
        record_to_itself,
        metadata_to_itself,
        target_is_a_folder,
        target_links_to_a_folder,
    ],
)
def test_broken_and_outward_links_are_refused_and_nothing_is_written(
    broken: Callable[[Path], None], site: Path
) -> None:
    broken(site)
    before, before_times = snapshot(site.parent), times(site.parent)
    refused = run_nfpatch("apply", *SOME_PATCHES, "--allow-modified", "--site-packages", site, timeout=60)
    assert refused.returncode in (3, 4), refused
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert str(site) in refused.stderr
    assert (snapshot(site.parent), times(site.parent)) == (before, before_times)
    for command in ("apply", "apply --dry-run", "status", "revert"):
        result = invoke(*on_some(command), "--site-packages", site)
        assert result.exit_code in ((3, 4) if command == "apply" else (0, 3, 4)), result.output
        assert len(result.stderr.splitlines()) == (result.exit_code != 0)
        assert (snapshot(site.parent), times(site.parent)) == (before, before_times)


def test_status_of_a_file_with_a_dangling_link_is_modified(site: Path) -> None:
    dangling(site)
    result = invoke("status", "--json", "--site-packages", site)
    assert result.exit_code == 0
    assert needed_states(site) == {"nbeatsx-unused-out": "applicable", "tft-static-encoder": "modified"}
