from __future__ import annotations

from pathlib import Path

import fingerprints
import made_up
import pytest

from nfpatch.catalog import Catalog
from nfpatch.fingerprints import Fingerprints
from nfpatch.installs.find import Install
from nfpatch.patching.install_state import InstallState, inspect_install


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """The patches of the release that is made up; the record speaks of all but a user's own."""
    with pytest.MonkeyPatch.context() as made:
        made.setattr(fingerprints, "RELEASES", (made_up.RELEASE,))
        made.setattr(fingerprints, "read_member", lambda release, file: made_up.RELEASED[file])
        record = fingerprints.fingerprints_of(Catalog(made_up.ON_RECORD, Fingerprints((), {}, {})))
    return Catalog(tuple(sorted((*made_up.ON_RECORD, made_up.OWN))), record)


@pytest.fixture
def install(tmp_path: Path) -> Install:
    return made_up.make_install(tmp_path / "site")


@pytest.fixture
def found(install: Install, catalog: Catalog) -> InstallState:
    """The install as the installer left it."""
    return inspect_install(install, catalog)
