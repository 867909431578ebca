"""Progress: what is counted, and that every count is a sign of life."""

from __future__ import annotations

import pytest

from dls.logistics.transfer.progress import Progress


def figures(progress: Progress) -> tuple[int, ...]:
    return progress.files, progress.bytes, progress.kept, progress.failed, progress.requests, progress.syncing


def test_each_count_is_a_sign_of_life() -> None:
    progress = Progress()
    assert (progress.phase, progress.files_total, progress.bytes_total, progress.ticks) == ("looking", 0, 0, 0)
    assert figures(progress) == (0, 0, 0, 0, 0, 0)
    seen = [0]

    def alive() -> bool:
        seen.append(progress.ticks)
        return seen[-1] > seen[-2]

    progress.moved(5)
    progress.moved(-2)
    assert figures(progress) == (0, 3, 0, 0, 0, 0)
    assert alive()
    progress.moved(0)
    assert alive()
    progress.settled(2, 10)
    assert figures(progress) == (2, 13, 0, 0, 0, 0)
    assert alive()
    progress.settled(3, 20, kept=True)
    assert figures(progress) == (5, 33, 3, 0, 0, 0)
    assert alive()
    with progress.sync(), progress.sync():
        assert progress.syncing == 2
        assert not alive(), "a sync is silent"
    assert alive()

    def failing() -> None:
        with progress.sync():
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        failing()
    assert figures(progress) == (5, 33, 3, 0, 0, 0)
    assert alive()
