"""The errors, with the exit codes that scripts can rely on.

A message is one paragraph: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import errno


class NfpatchError(Exception):
    """Base class of the errors that nfpatch reports without a traceback."""

    exit_code = 1


class UsageError(NfpatchError):
    """The command line names something that does not exist, or combines options that exclude each other."""

    exit_code = 2


class RefusedError(NfpatchError):
    """nfpatch refuses, and nothing was changed: a modified file, an unknown release, a layer that is used."""

    exit_code = 3


class InstallEnvironmentError(NfpatchError):
    """Environment error: neuralforecast or torch is missing, permission denied, disk full, lock timeout."""

    exit_code = 4


def to_environment_error(error: BaseException, state: str = "Nothing was changed.") -> BaseException:
    """An InstallEnvironmentError that names the path, for an OSError; any other error itself.

    `state` is a sentence about the state of the install after the failure.
    """
    if not isinstance(error, OSError):
        return error
    permission = "Re-run as the owner of the environment, or as a user with write access."
    advice = {
        errno.EACCES: permission,
        errno.EPERM: permission,
        errno.ENOSPC: "Free some disk space and re-run the command.",
        errno.EDQUOT: "Free some disk space and re-run the command.",
        errno.EROFS: "Mount the file system writable, or patch where the image is built.",
    }.get(error.errno or 0, "Check the disk, then re-run the command.")
    return InstallEnvironmentError(
        f"Cannot write {error.filename or 'the install'}: {error.strerror}. {state} {advice}"
    )
