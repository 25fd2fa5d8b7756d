"""What can go wrong, each with the exit code that scripts may rely on.

A message is one paragraph: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import errno


class NfpatchError(Exception):
    """Base of every error that nfpatch reports without a traceback."""

    exit_code = 1


class AnswerIsNo(NfpatchError):
    """The command ran and the answer is no: a proof that failed, a patch that is missing."""

    exit_code = 1


class UsageError(NfpatchError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class Refused(NfpatchError):
    """nfpatch could act but must not: a modified file, an unknown release, a used layer. Nothing was changed."""

    exit_code = 3


class EnvironmentProblem(NfpatchError):
    """The surroundings do not allow it: no neuralforecast, no torch, no permission, no space, no lock."""

    exit_code = 4


def as_problem(error: BaseException, state: str = "Nothing was changed.") -> BaseException:
    """The error to raise instead: a system error becomes an EnvironmentProblem that names the path.

    `state` is a sentence on what the failure has left.
    """
    if not isinstance(error, OSError):
        return error
    rights = "Run as the owner of the environment, or with the rights to write there."
    advice = {
        errno.EACCES: rights,
        errno.EPERM: rights,
        errno.ENOSPC: "Free some space and run the command again.",
        errno.EDQUOT: "Free some space and run the command again.",
        errno.EROFS: "Mount it writable, or patch where the image is built.",
    }.get(error.errno or 0, "Look at the disk, then run the command again.")
    return EnvironmentProblem(
        f"{error.filename or 'The install'} cannot be written: {error.strerror}. {state} {advice}"
    )
