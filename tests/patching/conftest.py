from __future__ import annotations

from pathlib import Path

import fake_install
import fingerprints
import pytest

from nfpatch.catalog import Catalog
from nfpatch.fingerprints import Fingerprints
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import InstallState, inspect_install


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """The patches of the fake release; all except the user's own have fingerprints."""
    with pytest.MonkeyPatch.context() as made:
        made.setattr(fingerprints, "RELEASES", (fake_install.RELEASE,))
        made.setattr(fingerprints, "read_member", lambda release, file: fake_install.RELEASED[file])
        record = fingerprints.fingerprints_of(Catalog(fake_install.FINGERPRINTED, Fingerprints((), {}, {})))
    return Catalog(tuple(sorted((*fake_install.FINGERPRINTED, fake_install.OWN))), record)


@pytest.fixture
def install(tmp_path: Path) -> Install:
    return fake_install.make_install(tmp_path / "site")


@pytest.fixture
def found(install: Install, catalog: Catalog) -> InstallState:
    """The install as the installer left it."""
    return inspect_install(install, catalog)
