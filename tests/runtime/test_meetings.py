import itertools
import threading
import time
import warnings
from datetime import timedelta
from random import Random

import pytest
import torch.distributed as dist
from several_ranks import run_in_threads

from patches.runtime import meetings
from patches.runtime.ranks import RankGroup


class Clock:
    """A clock that only its own `sleep` advances; `arrivals` maps a time to a function that is called then."""

    def __init__(self, arrivals=None):
        self.now = 0.0
        self._arrivals = dict(arrivals or {})

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for moment in [moment for moment in self._arrivals if moment <= self.now]:
            self._arrivals.pop(moment)()


class BrokenStore:
    """The store of a process that exits: it raises from the n-th operation on."""

    def __init__(self, store=None, n=0):
        self._store, self._left = store, n

    def __getattr__(self, name):
        def operate(*arguments):
            self._left -= 1
            if self._left < 0:
                raise RuntimeError("Connection reset by peer")
            return getattr(self._store, name)(*arguments)

        return operate


class OwnStore:
    """A store in Python, whose operations can be changed, with a prefix like PrefixStore."""

    def __init__(self, store, prefix=meetings.NAME):
        self._store = dist.PrefixStore(prefix, store)
        self.compare_set = self._store.compare_set

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture
def store():
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=5))
    return store


def groups(store, world_size=2):
    return [RankGroup(rank, world_size, store) for rank in range(world_size)]


def keys_of(group, *keys):
    prefixed = group.prefixed(meetings.NAME).store
    return [key for key in keys if prefixed.check([key])]


def attended(group, token, **kwargs):
    """Whether the rank shares its call; warnings are suppressed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return meetings.attend(group, token, **kwargs) is not None


@pytest.fixture(params=[2, 3])
def shared(request, store):
    """The shared call of each rank."""
    calls = run_in_threads(request.param, lambda group: meetings.attend(group, "token"))
    assert all(isinstance(call, meetings.SharedCall) for call in calls)
    return calls


# --- whether all ranks make the same call


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_with_one_token_share_each_call(world_size):
    def share(group):
        return [attended(group, token) for token in ("a", "b", "b")]

    assert run_in_threads(world_size, share) == [[True] * 3] * world_size


def test_ranks_with_different_tokens_share_nothing_and_later_calls_again():
    def share(group):
        tokens = ("same", "of rank 1" if group.rank == 1 else "of the others", "same again")
        return [attended(group, token) for token in tokens]

    assert run_in_threads(3, share) == [[True, False, True]] * 3


@pytest.mark.parametrize("seed", range(5))
def test_all_ranks_share_a_call_or_none_does_for_any_tokens(seed):
    random = Random(seed)
    calls = [[random.choice(["a", "a", "a", "b", ""]) for _ in range(3)] for _ in range(40)]
    results = run_in_threads(3, lambda group: [attended(group, tokens[group.rank]) for tokens in calls])
    expected = [len(set(tokens)) == 1 and "" not in tokens for tokens in calls]
    assert any(expected)
    assert results == [expected] * 3


def test_an_empty_token_waits_for_no_rank(store):
    first, second = groups(store)
    clock = Clock()
    assert not attended(first, "", clock=clock)
    assert not attended(second, "token", clock=clock)
    assert clock.now == 0


def test_a_rank_without_the_others_waits_for_the_deadline_once(store):
    first, second = groups(store)
    clock = Clock()
    with pytest.warns(UserWarning, match="on rank 1"):
        assert meetings.attend(first, "token", clock) is None
    assert meetings.MEETING_SECONDS <= clock.now < meetings.MEETING_SECONDS + 1
    waited = clock.now
    for _ in range(3):
        assert not attended(first, "token", clock=clock)
        assert not attended(second, "token", clock=clock)
    assert clock.now == waited


def test_a_rank_may_arrive_until_the_deadline(store):
    first, second = groups(store)
    results = []

    def come():
        second_clock = Clock({0.001: lambda: time.sleep(0)})
        thread = threading.Thread(target=lambda: results.append(attended(second, "token", clock=second_clock)))
        thread.start()
        thread.join()

    # The other rank finds the token of the first one, and decides; the first one sees that when it polls again
    assert attended(first, "token", clock=Clock({meetings.MEETING_SECONDS - 0.5: come}))
    assert results == [True]


@pytest.mark.parametrize("wins", ["the deadline", "the meeting"])
def test_the_first_decision_holds_for_all_ranks(store, monkeypatch, wins):
    """A rank gives up at the moment at which another one finds that all have arrived."""
    first, second = groups(store)
    name = RankGroup(0, 2, store).prefixed(meetings.NAME)
    clock = Clock()
    outcomes = {}

    def second_finds_all():
        outcomes[1] = meetings.SharedCall(second.prefixed(meetings.NAME), second.count_call(meetings.NAME), clock)
        outcomes[1] = outcomes[1].meet("token")

    propose = meetings.SharedCall._propose

    def propose_at_once(self, outcome):
        if self.rank == 0 and 1 not in outcomes:
            outcomes[1] = None
            if wins == "the meeting":
                second_finds_all()
                return propose(self, outcome)
            decided = propose(self, outcome)
            second_finds_all()
            return decided
        return propose(self, outcome)

    monkeypatch.setattr(meetings.SharedCall, "_propose", propose_at_once)
    assert attended(first, "token", clock=clock) == outcomes[1] == (wins == "the meeting")
    expected = meetings.SHARE if wins == "the meeting" else meetings.MISSED
    assert name.store.get("decision").decode() == f"1:{expected}:{int(wins == 'the meeting')}"
    assert bool(keys_of(first, "alone")) == (wins == "the deadline")


def test_all_proposals_at_once_have_one_outcome():
    outcomes = itertools.cycle([meetings.SHARE, meetings.MISSED, meetings.DIFFER])
    by_rank = dict(zip(range(6), outcomes))

    def propose(group):
        decided = []
        for number in range(1, 30):
            call = meetings.SharedCall(group, number, time)
            decided.append(call._propose(by_rank[(group.rank + number) % 6]))
            group.store.add(f"done/{number}", 1)
            while group.store.add(f"done/{number}", 0) < 6:  # wait until all ranks know the outcome
                time.sleep(0)
        return decided

    results = run_in_threads(6, propose)
    assert all(result == results[0] for result in results)


def test_a_slow_rank_shares_the_call_before_one_in_which_the_others_differ(store):
    slow, *others = [group.prefixed(meetings.NAME) for group in groups(store, 3)]
    calls = [[meetings.SharedCall(group, number, Clock()) for number in (1, 2)] for group in others]
    slow.publish("came/0", (1, "token"))
    others[1].publish("came/2", (1, "token"))
    assert calls[0][0].meet("token")
    assert calls[1][0].meet("token")
    others[1].publish("came/2", (2, "of rank 2"))
    assert not calls[0][1].meet("of rank 1")
    assert meetings.SharedCall(slow, 1, Clock()).meet("token")


def test_a_call_that_the_others_have_left_is_missed(store):
    first, second = groups(store)
    attended(first, "", clock=Clock())
    assert not attended(first, "token", clock=Clock())  # its second call, which rank 1 does not make in time
    call = meetings.SharedCall(second.prefixed(meetings.NAME), 1, Clock())
    assert call._propose(meetings.SHARE) == meetings.MISSED


def test_a_waiting_rank_sees_that_another_computes_by_itself(store):
    first = groups(store)[0]
    clock = Clock({1.0: lambda: store.set(f"{meetings.NAME}/alone", "1")})
    assert not attended(first, "token", clock=clock)
    assert clock.now < meetings.MEETING_SECONDS


@pytest.mark.parametrize("n_operations", range(8))
def test_without_a_store_a_rank_computes_by_itself(store, n_operations):
    group = RankGroup(0, 2, BrokenStore(OwnStore(store, "x"), n_operations))
    group = SimpleGroup(group)
    assert meetings.attend(group, "token", Clock()) is None
    assert meetings.has_drawn(SimpleGroup(RankGroup(0, 2, BrokenStore())), "name")


class SimpleGroup(RankGroup):
    """A group with a store in Python, which `PrefixStore` does not accept."""

    def __init__(self, group):
        super().__init__(group.rank, group.world_size, group.store)

    def prefixed(self, prefix):
        return self


# --- exchanged parts


def test_each_rank_receives_the_parts_of_the_others(shared, monkeypatch):
    monkeypatch.setattr(meetings, "CHUNK_BYTES", 7)

    def exchange(group):
        call = shared[group.rank]
        with call.heartbeat():
            call.publish(meetings.Part([f"value {group.rank}", None, list(range(group.rank * 10))]))
        parts = {rank: call.receive(rank) for rank in call.others}
        return parts, call._store

    results = run_in_threads(len(shared), exchange)
    for rank, (parts, _) in enumerate(results):
        assert sorted([rank, *parts]) == list(range(len(shared)))
        for other, part in parts.items():
            assert part == meetings.Part([f"value {other}", None, list(range(other * 10))])
    store = results[0][1]
    left = [f"1/{rank}{key}" for rank in range(len(shared)) for key in ("", "/read", "/0", "/1", "/2")]
    assert not [key for key in left if store.check([key])]


def test_an_error_is_raised_where_it_happens_and_the_others_need_not_wait(shared):
    clock = Clock()
    failing, *others = shared
    with pytest.raises(KeyboardInterrupt), failing.heartbeat():
        raise KeyboardInterrupt
    for call in others:
        call._clock = clock
        assert call.receive(0).problem == "error"
        call.publish(meetings.Part(["not read by rank 0"]))
        for rank in call.others:
            if rank > 0:
                shared[rank].publish(meetings.Part(["value"]))
                assert call.receive(rank).values in (["value"], ["not read by rank 0"])
    assert clock.now == 0
    assert not failing._store.check(["alone"])
    assert not failing._store.check(["1/0"])


def test_a_rank_without_a_heartbeat_is_lost(shared):
    clock = Clock()
    shared[0]._clock, shared[0]._started = clock, 0
    shared[0]._store.add("alive/1", 3)
    assert shared[0].receive(1) == meetings.Part((), "lost")
    assert meetings.LOST_SECONDS <= clock.now < meetings.LOST_SECONDS + 1
    assert shared[0]._store.check(["alone"])


@pytest.mark.parametrize("own_seconds", [0, 50])
def test_a_computing_rank_is_waited_for_up_to_a_limit(shared, own_seconds):
    clock = Clock()
    waiting = shared[0]
    waiting._clock, waiting._started = clock, -own_seconds
    ticks = {second: lambda: waiting._store.add("alive/1", 1) for second in range(1, 1000)}
    clock._arrivals = ticks
    assert waiting.receive(1) == meetings.Part((), "lost")
    patience = meetings.PATIENCE_SECONDS + meetings.PATIENCE_FACTOR * own_seconds
    assert patience <= clock.now < patience + 1


def test_a_late_part_is_received(shared):
    if len(shared) == 3:
        shared[2].decline()
    first, second = shared[:2]
    first._clock, first._started = Clock({5.0: lambda: second.publish(meetings.Part(["late"]))}), 0
    assert first.receive(1) == meetings.Part(["late"])
    assert not first._store.check(["1/1"])


def test_a_part_that_no_rank_needs_any_more_is_not_published(shared):
    for call in shared[1:]:
        call.decline()
    shared[0].publish(meetings.Part(["value"]))
    assert not any(shared[0]._store.check([key]) for key in ("1/0", "1/0/0", "1/0/read"))


def test_a_computing_rank_sends_heartbeats(shared, monkeypatch):
    monkeypatch.setattr(meetings, "BEAT_SECONDS", 0.001)
    call = shared[0]
    before = threading.active_count()
    with call.heartbeat():
        while call._store.add("alive/0", 0) < 3:
            pass
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_without_a_store_a_part_is_lost_and_nothing_fails(shared):
    call = shared[0]
    call._store = BrokenStore()
    with call.heartbeat():
        call.publish(meetings.Part(["value"]))
    call.mark_draws("name")
    call.decline()
    assert call.receive(1) == meetings.Part((), "lost")


def test_calls_that_draw_random_numbers_are_known_to_all_ranks(shared, store):
    first, second = groups(store)
    assert not meetings.has_drawn(first, "Model")
    meetings.SharedCall(first.prefixed(meetings.NAME), 1, time).mark_draws("Model")
    assert meetings.has_drawn(second, "Model")
    assert not meetings.has_drawn(second, "Other")
