"""Ranks share a computation if all of them make the same call, and do not wait long for a rank that does not make it.

No collective call is used, because a script may make the call on one rank only: ranks exchange values through the store
of the process group. The steps of a shared call:

1. Each rank counts its calls, and publishes the number of this call with a token that identifies the computation.
2. Each polls the tokens of the others. The first rank that knows the outcome decides it for all: "share" if all have
   the same token, "differ" if not, "missed" if a rank has not arrived within MEETING_SECONDS.
3. Each computes its part and publishes it. Meanwhile it increments a heartbeat.
4. Each reads the parts of the others. A part that is not published, because its rank has failed, exited or sent no
   heartbeat for LOST_SECONDS, is computed by every rank that needs it.

After a missed meeting or a lost part each rank computes everything itself from then on, and does not wait. So the
decision affects only the duration of a call, never its result.

The keys are below `neuralforecast/prediction/`; the last three belong to one call, and are deleted after it:

    calls/RANK      the number of calls that a rank has made
    came/RANK       the number of a rank's last call, and its token, which is empty if it shares nothing in that call
    decision        the number of the last call that was decided, its outcome, and the number of the last shared call
    alone           set after a missed meeting or a lost part
    draws/NAME      set when something of this name has drawn random numbers, so that it cannot be shared
    alive/RANK      the heartbeat
    N/RANK          the number of chunks of a rank's part in call N; set when all of them are published
    N/RANK/C        chunk C of that part
    N/RANK/read     the number of ranks that no longer need it
"""

from __future__ import annotations

import pickle
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Optional

from .ranks import RankGroup

NAME = "neuralforecast/prediction"
SHARE, DIFFER, MISSED = "share", "differ", "missed"

# How long a rank waits, from its own arrival, for the others to make the same call
MEETING_SECONDS = 10.0
# The interval of heartbeats, and the time without one after which the others compute a rank's part
BEAT_SECONDS = 1.0
LOST_SECONDS = 15.0
# How long a rank waits for the part of one that sends heartbeats: this, plus a multiple of the time of its own part
PATIENCE_SECONDS = 60.0
PATIENCE_FACTOR = 4.0
# The pause between two polls of the store doubles from the first to the longest
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05
# Values are published in pieces of this size; torch's store refuses messages of more than 8 MiB
CHUNK_BYTES = 4 * 2**20


class Part(NamedTuple):
    """The part of a rank in a call: its `values`, or in one word why there are none."""

    values: Sequence[Any]
    problem: str = ""


def attend(group: RankGroup, token: str, clock: Any = time) -> Optional[SharedCall]:
    """Synchronize this call with the other ranks; None if this rank computes everything itself.

    Either all ranks get a call or none does. A rank with an empty token does not wait, and no rank waits for it. No
    rank waits longer than MEETING_SECONDS. After a wait in vain, every rank computes everything itself from then on.
    `clock` is the module `time`, or has its `monotonic` and `sleep`. Never raises, not even without a store.
    """
    try:
        call = SharedCall(group.prefixed(NAME), group.count_call(NAME), clock)
        return call if call.meet(token) else None
    except Exception:  # whatever a store raises whose process has exited
        return None


def has_drawn(group: RankGroup, name: str) -> bool:
    """Whether calls of this name are known to draw random numbers."""
    try:
        return bool(group.prefixed(NAME).store.check([f"draws/{name}"]))
    except Exception:
        return True


class SharedCall:
    """One call that all ranks make together. `attend` makes it."""

    def __init__(self, group: RankGroup, number: int, clock: Any) -> None:
        self._group = group
        self._store = group.store
        self._number = number
        self._clock = clock
        self._started = clock.monotonic()
        self.rank = group.rank
        self.world_size = group.world_size

    @property
    def others(self) -> list[int]:
        """The other ranks, beginning with the next one, so that they do not all request the same part at once."""
        return [(self.rank + distance) % self.world_size for distance in range(1, self.world_size)]

    def meet(self, token: str) -> bool:
        """Whether all ranks have arrived with this token; see `attend`."""
        self._group.publish(f"came/{self.rank}", (self._number, token))
        if not token or self._store.check(["alone"]):
            return False
        return self._decide(token) == SHARE

    def _decide(self, token: str) -> str:
        """The outcome for all, decided by the first rank that knows it."""
        deadline = self._started + MEETING_SECONDS
        missing = set(self.others)
        for _ in self._polls():
            decided = self._outcome_in(self._last_decision())
            if decided is not None:
                return decided
            tokens = {rank: self._token_of(rank) for rank in missing}
            missing = {rank for rank in missing if tokens[rank] is None}
            if any(came is not None and came != token for came in tokens.values()):
                return self._propose(DIFFER)
            if not missing:
                return self._propose(SHARE)
            if self._store.check(["alone"]):
                return self._propose(MISSED)
            if self._clock.monotonic() >= deadline:
                return self._miss(missing)
        raise AssertionError("A rank polls until there is an outcome.")

    def _token_of(self, rank: int) -> Optional[str]:
        """The token of another rank; None if it has not arrived, empty if it shares nothing in this call."""
        if not self._store.check([f"came/{rank}"]):
            return None
        number, token = self._group.receive(f"came/{rank}")
        if number < self._number:
            return None
        return str(token) if number == self._number else ""

    def _miss(self, missing: set[int]) -> str:
        """Stop waiting for these ranks, unless another rank has just decided to share."""
        outcome = self._propose(MISSED)
        if outcome == MISSED:
            self._end_sharing()
            names = ", ".join(map(str, sorted(missing)))
            warnings.warn(
                f"Rank {self.rank} predicts alone, and so do all ranks from now on: within {MEETING_SECONDS:g} s the "
                f"same prediction was not called on rank {names}.",
                stacklevel=5,
            )
        return outcome

    def _last_decision(self) -> str:
        """The last decision of any call in the store; empty if there is none."""
        return self._store.get("decision").decode() if self._store.check(["decision"]) else ""

    def _outcome_in(self, decision: str) -> Optional[str]:
        """The outcome of this call; None if it is not decided yet.

        Ranks that differ decide without a slower one, which may still be in the call before. That call was shared if it
        is the last shared one, as no later one can be shared without this rank; otherwise it was missed.
        """
        number, outcome, last_shared = decision.split(":") if decision else ("0", "", "0")
        if int(last_shared) == self._number:
            return SHARE
        if int(number) < self._number:
            return None
        return outcome if int(number) == self._number else MISSED

    def _propose(self, outcome: str) -> str:
        """Decide for all ranks, unless one has decided: one atomic operation of the store. Returns the decision."""
        while True:
            decision = self._last_decision()
            decided = self._outcome_in(decision)
            if decided is not None:
                return decided
            last_shared = self._number if outcome == SHARE else decision.rpartition(":")[2] or 0
            # Set only if it is still the decision of an earlier call
            self._store.compare_set("decision", decision, f"{self._number}:{outcome}:{last_shared}")

    def _end_sharing(self) -> None:
        self._store.set("alone", "1")

    def _polls(self) -> Iterator[None]:
        """Yield forever, with pauses in between."""
        pause = FIRST_PAUSE
        while True:
            yield
            self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Signal to the other ranks that this one computes, as long as the block runs.

        If the block raises, the others do not wait for this rank.
        """
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), daemon=True, name="nfpatch-heartbeat")
        thread.start()
        try:
            yield
        except BaseException:
            self.publish(Part((), "error"))
            self.decline()
            raise
        finally:
            ended.set()
            thread.join(BEAT_SECONDS)

    def _beat(self, ended: threading.Event) -> None:
        with suppress(Exception):  # without a store no rank reads it
            self._store.add(f"alive/{self.rank}", 1)
            while not ended.wait(BEAT_SECONDS):
                self._store.add(f"alive/{self.rank}", 1)

    def publish(self, part: Part) -> None:
        """Publish the part of this rank, pickled in chunks. Never raises: if it fails, the others compute the part."""
        key = f"{self._number}/{self.rank}"
        with suppress(Exception):
            if self._store.add(f"{key}/read", 0) >= self.world_size - 1:
                self._store.delete_key(f"{key}/read")  # no rank needs it any more
                return
            pickled = pickle.dumps(part, protocol=4)
            starts = range(0, len(pickled), CHUNK_BYTES)
            for number, start in enumerate(starts):
                self._store.set(f"{key}/{number}", pickled[start : start + CHUNK_BYTES])
            self._group.publish(key, len(starts))

    def receive(self, rank: int) -> Part:
        """The part of another rank. Waits for it as long as that rank computes, and only briefly if it does not.

        Without a heartbeat of that rank for LOST_SECONDS, or after PATIENCE_SECONDS and more, its part is "lost", and
        every rank computes everything itself from then on. Never raises.
        """
        try:
            if self._wait_for(rank):
                part = self._read(rank)
            else:
                part = Part((), "lost")
                self._end_sharing()
            self._release(rank)
        except Exception:
            return Part((), "lost")
        return part

    def decline(self) -> None:
        """Release the parts of the other ranks without reading them."""
        with suppress(Exception):
            for rank in self.others:
                self._release(rank)

    def mark_draws(self, name: str) -> None:
        """Record for all ranks that calls of this name draw random numbers."""
        with suppress(Exception):
            self._store.set(f"draws/{name}", "1")

    def _wait_for(self, rank: int) -> bool:
        """Whether another rank publishes its part before the wait for it ends."""
        asked = self._clock.monotonic()
        deadline = asked + PATIENCE_SECONDS + PATIENCE_FACTOR * (asked - self._started)
        beat, seen = -1, asked
        for _ in self._polls():
            if self._store.check([f"{self._number}/{rank}"]):
                return True
            now, latest = self._clock.monotonic(), self._store.add(f"alive/{rank}", 0)
            if latest != beat:
                beat, seen = latest, now
            if now >= deadline or now - seen >= LOST_SECONDS:
                return False
        raise AssertionError("A rank polls until the other is given up.")

    def _read(self, rank: int) -> Part:
        key = f"{self._number}/{rank}"
        chunks = [self._store.get(f"{key}/{number}") for number in range(self._group.receive(key))]
        part: Part = pickle.loads(b"".join(chunks))
        return part

    def _release(self, rank: int) -> None:
        """Record that this rank no longer needs the part of another; the last rank deletes it."""
        key = f"{self._number}/{rank}"
        if self._store.add(f"{key}/read", 1) < self.world_size - 1 or not self._store.check([key]):
            return
        for number in range(self._group.receive(key)):
            self._store.delete_key(f"{key}/{number}")
        self._store.delete_key(key)
        self._store.delete_key(f"{key}/read")
