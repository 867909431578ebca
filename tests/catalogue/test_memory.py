"""The draft of a transaction in memory."""

from dls.catalogue.memoryrows import MemoryRows, Tables
from dls.catalogue.model import Dataset, FileState
from dls.logistics.event import Event


def test_a_draft_shows_only_when_committed() -> None:
    state = Tables()
    state.datasets["s:a"] = Dataset("s", "a", serial=1)
    state.marks["r"] = {b"x": FileState.LOST}
    rows = MemoryRows(state, "local", 5)
    rows.save_dataset(Dataset("s", "a", serial=2))
    rows.save_dataset(Dataset("s", "b"))
    assert rows.clear("r", None) == 1
    rows.record(Event("t", "s:a", "me", {}))
    assert rows.dataset("s:a") == Dataset("s", "a", serial=2)
    assert state.datasets == {"s:a": Dataset("s", "a", serial=1)}
    assert (state.marks, state.events) == ({"r": {b"x": FileState.LOST}}, [])
    rows.commit()
    assert sorted(state.datasets) == ["s:a", "s:b"]
    assert state.datasets["s:a"].serial == 2
    assert state.marks == {"r": {}}
    assert [(e.id, e.time_ns) for e in state.events] == [(1, 5)]
