"""What can go wrong, each with the exit code that scripts may rely on.

A message is one paragraph: what is wrong, where, and what to do about it.
"""

from __future__ import annotations


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
