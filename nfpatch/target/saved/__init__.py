"""Reads, checks and rewrites saved models."""

from __future__ import annotations

from collections.abc import Iterable

MOST_NAMES = 24  # of keys in a message
LONGEST_REASON = 400


class Refusal(Exception):
    """The reason why a file is refused; reason and `cause` are those of a `FileCheck`."""

    def __init__(self, reason: str, cause: str = "content") -> None:
        super().__init__(reason)
        self.cause = cause


def listed(names: Iterable[str]) -> str:
    """Names for a message, at most MOST_NAMES of them."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def one_line(error: BaseException) -> str:
    """An exception as one line."""
    text = " ".join((type(error).__name__ + ": " + str(error)).split())
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " ..."
