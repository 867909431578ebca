"""Deciding where from, pure."""

from hypothesis import given
from hypothesis import strategies as st

from dls.catalogue.model import Replica, ReplicaState
from dls.madpp.source import is_site, lies_in, overlap, rank

REPLICAS = st.lists(
    st.builds(
        Replica,
        id=st.text("ABC", min_size=1, max_size=3),
        dataset=st.just("x:data"),
        version=st.just(1),
        storage=st.just(""),
        url=st.sampled_from(["file:///a", "memory://a/b", "s3://b/c", "s3+http://h:1/b"]),
        state=st.sampled_from([ReplicaState.COMPLETE, ReplicaState.OFFLINE]),
        created_ns=st.integers(0, 5),
    ),
    max_size=8,
    unique_by=lambda r: r.id,
)


@given(REPLICAS, st.randoms(use_true_random=False))
def test_rank_does_not_depend_on_the_order_given(replicas: list[Replica], random: object) -> None:
    shuffled = list(replicas)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ranked = rank(shuffled)
    assert ranked == rank(replicas)
    assert sorted(r.id for r in ranked) == sorted(r.id for r in replicas)
    states = [r.state for r in ranked]
    assert states == sorted(states, key=lambda s: s is not ReplicaState.COMPLETE), "offline copies come last"
    for state in ReplicaState:
        schemes = [r.url.partition(":")[0] for r in ranked if r.state is state]
        assert schemes == sorted(schemes, key=lambda s: ["memory", "file"].index(s) if s in ("memory", "file") else 2)


def test_what_lies_in_what() -> None:
    assert lies_in("file:///a/b", "file:///a")
    assert lies_in("file:///a", "file:///a")
    assert lies_in("file:///a", "file:///")
    assert not lies_in("file:///ab", "file:///a")
    assert overlap("file:///a", "file:///a/b")
    assert not overlap("file:///a/c", "file:///a/b")


def test_sites_are_told_from_addresses() -> None:
    assert all(map(is_site, ("scratch", "scratch/default", "a.b-c")))
    assert not any(map(is_site, ("/abs", "./rel", "../up", "s3://b/k", "x:data", "~/home")))
