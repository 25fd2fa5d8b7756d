"""Ranks that share a computation if all of them make the same call, and that never wait for long for one that does not.

No collective call is used, as a script may make the call on one rank only: ranks exchange values through the store of
the process group. A shared call goes so:

1. Each rank counts its calls, and publishes the number of this one with a token that says what it is going to compute.
2. Each looks for the tokens of the others. The first rank that knows the outcome decides it for all: "share" if all
   came with one token, "differ" if not, "missed" if one has not come within MEETING_SECONDS.
3. Each computes its part and publishes it. As long as it computes, it counts up a heartbeat.
4. Each reads the parts of the others. A part that does not come, as its rank has failed or ended or is silent for
   LOST_SECONDS, is computed by whoever needs it.

After a missed meeting or a lost part all ranks compute alone from then on, and do not wait. So no result depends on
what the ranks agree on, but only how long a call takes.

The keys are below `neuralforecast/prediction/`; only the last three are of one call, and go once it has been read:

    calls/RANK      how many calls a rank has made
    came/RANK       the number of a rank's last call, and its token; an empty one if it shares nothing in that call
    decision        the number of the last call that was decided, its outcome, and the number of the last shared call
    alone           set after a missed meeting or a lost part
    draws/NAME      set when something of this name has drawn random numbers, so that it cannot be shared
    alive/RANK      the heartbeat
    N/RANK          into how many chunks the part of a rank in call N is cut; set when all of them are there
    N/RANK/C        chunk C of it
    N/RANK/read     how many ranks need it no longer
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

# How long a rank waits for the others to make the same call, from its own arrival on
MEETING_SECONDS = 10.0
# How often a rank that computes says so, and how long it may be silent before the others compute its part
BEAT_SECONDS = 1.0
LOST_SECONDS = 15.0
# How long a rank waits for the part of one that says that it computes: this, and a multiple of what its own part took
PATIENCE_SECONDS = 60.0
PATIENCE_FACTOR = 4.0
# Between two polls of the store: the pause doubles from the first to the longest
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05
# Values are published in pieces of this size; torch's store refuses messages of more than 8 MiB
CHUNK_BYTES = 4 * 2**20


class Part(NamedTuple):
    """What a rank publishes in a call: the `values` of its part; or why there are none, in one word."""

    values: Sequence[Any]
    problem: str = ""


def attend(group: RankGroup, token: str, clock: Any = time) -> Optional[SharedCall]:
    """Meet the other ranks in this call; None if this rank is to compute alone.

    Either all ranks get a call or none does. A rank that brings an empty token does not wait, and lets no rank wait. No
    rank waits longer than MEETING_SECONDS. After one that did in vain, all ranks compute alone from then on. `clock` is
    the module `time`, or has its `monotonic` and `sleep`. Raises nothing: without a store, each rank is alone.
    """
    try:
        call = SharedCall(group.prefixed(NAME), group.count_call(NAME), clock)
        return call if call.meet(token) else None
    except Exception:  # whatever the store of a process that has ended raises
        return None


def has_drawn(group: RankGroup, name: str) -> bool:
    """Whether it is known that what has this name draws random numbers."""
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
        """The other ranks, beginning with the next one, so that not all of them ask for the same part at once."""
        return [(self.rank + distance) % self.world_size for distance in range(1, self.world_size)]

    def meet(self, token: str) -> bool:
        """Whether all ranks have come with this token; see `attend`."""
        self._group.publish(f"came/{self.rank}", (self._number, token))
        if not token or self._store.check(["alone"]):
            return False
        return self._decide(token) == SHARE

    def _decide(self, token: str) -> str:
        """The outcome that the first rank to know one has decided, for all."""
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
        """What another rank came with; None if it has not come, an empty text if it shares nothing in this call."""
        if not self._store.check([f"came/{rank}"]):
            return None
        number, token = self._group.receive(f"came/{rank}")
        if number < self._number:
            return None
        return str(token) if number == self._number else ""

    def _miss(self, missing: set[int]) -> str:
        """End the waiting for these ranks, unless another rank has just decided to share."""
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
        """The last decision of any call, as it stands in the store; an empty text while there is none."""
        return self._store.get("decision").decode() if self._store.check(["decision"]) else ""

    def _outcome_in(self, decision: str) -> Optional[str]:
        """The outcome of this call; None while it is not decided.

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
        """Decide for all ranks, if none has: one atomic operation of the store. Returns what is decided."""
        while True:
            decision = self._last_decision()
            decided = self._outcome_in(decision)
            if decided is not None:
                return decided
            last_shared = self._number if outcome == SHARE else decision.rpartition(":")[2] or 0
            # Sets it only if it is still the decision of an earlier call
            self._store.compare_set("decision", decision, f"{self._number}:{outcome}:{last_shared}")

    def _end_sharing(self) -> None:
        self._store.set("alone", "1")

    def _polls(self) -> Iterator[None]:
        """Yields without end, with pauses between."""
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
        with suppress(Exception):  # without a store no rank looks
            self._store.add(f"alive/{self.rank}", 1)
            while not ended.wait(BEAT_SECONDS):
                self._store.add(f"alive/{self.rank}", 1)

    def publish(self, part: Part) -> None:
        """Publish the part of this rank, pickled in chunks. Raises nothing: others then compute it."""
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

        Without a sign of that rank for LOST_SECONDS, or after PATIENCE_SECONDS and more, its part is "lost", and all
        ranks compute alone from then on. Raises nothing.
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
        """Record for all ranks that what has this name draws random numbers."""
        with suppress(Exception):
            self._store.set(f"draws/{name}", "1")

    def _wait_for(self, rank: int) -> bool:
        """Whether another rank has published its part, or does so before it is given up."""
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
        """Count this rank as one that needs the part of another no longer; the last one deletes it."""
        key = f"{self._number}/{rank}"
        if self._store.add(f"{key}/read", 1) < self.world_size - 1 or not self._store.check([key]):
            return
        for number in range(self._group.receive(key)):
            self._store.delete_key(f"{key}/{number}")
        self._store.delete_key(key)
        self._store.delete_key(f"{key}/read")
