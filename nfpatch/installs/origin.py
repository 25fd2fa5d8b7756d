"""The commit that an install was made from, if it was not made from a release."""

from __future__ import annotations

import json
from typing import NamedTuple, Optional

from nfpatch.errors import NfpatchError
from nfpatch.installs.disk import read_file
from nfpatch.installs.find import Install
from nfpatch.installs.metadata import DISTRIBUTION

GIT_TIMEOUT_SECONDS = 10


class Commit(NamedTuple):
    """A commit of a git repository; `repository` is its URL or folder."""

    id: str
    repository: str

    @property
    def short_id(self) -> str:
        """The abbreviated id."""
        return self.id[:10]

    @property
    def requirement(self) -> str:
        """The requirement for pip that installs this commit."""
        return f"git+{self.repository}@{self.id}"


def commit_of(install: Install) -> Optional[Commit]:
    """The commit that an install was made from, or that is checked out; None if there is no git repository."""
    return _recorded_by_pip(install) if install.kind == "regular" else _checked_out(install)


def reinstall_command(install: Install) -> str:
    """The command that restores the files of the install, for cases in which nfpatch cannot."""
    commit = commit_of(install) if install.kind == "regular" else None
    if commit is not None:
        return f"`pip install --force-reinstall --no-deps '{DISTRIBUTION} @ {commit.requirement}'`"
    return f"`pip install --force-reinstall --no-deps {DISTRIBUTION}=={install.version}`"


def _recorded_by_pip(install: Install) -> Optional[Commit]:
    """The commit that pip recorded for an install from git (PEP 610)."""
    if install.dist_info is None:
        return None
    try:
        document = json.loads(read_file(install.dist_info / "direct_url.json"))
        if document["vcs_info"]["vcs"] == "git":
            return Commit(str(document["vcs_info"]["commit_id"]), str(document["url"]))
    except (NfpatchError, OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _checked_out(install: Install) -> Optional[Commit]:
    import subprocess

    command = ["git", "-C", str(install.root), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Commit(answer.stdout.strip(), str(install.root))
