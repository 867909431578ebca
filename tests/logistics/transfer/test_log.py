"""Logs: records survive a kill, torn ones end them, nothing of one source vouches for another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dls.logistics.errors import Unavailable
from dls.logistics.testing.spec import spec
from dls.logistics.transfer.log import Log, Logs, Opened, blocks_of

D, S = b"d" * 32, b"stamp"


def fill(log: Log) -> None:
    log.add_placed(1, D, S, b"source")
    assert log.begin(2, b"etag")
    log.add_blocks(2, 0, [b"0" * 32, b"1" * 32])
    log.add_token(2, Opened("token", b"key\xff", 77))
    log.add_part(2, 0, "receipt")


def check(log: Log) -> None:
    assert log.placed(1) == (D, S, b"source")
    assert log.placed(2) is None
    assert log.blocks(2, 0, 2) == [b"0" * 32, b"1" * 32]
    assert log.blocks(2, 1, 1) == [b"1" * 32]
    assert log.blocks(2, 0, 3) is None
    assert log.blocks(1, 0, 1) is None
    assert (log.token(2), log.token(1)) == ("token", "")
    assert (log.part(2, 0), log.part(2, 1), log.part(3, 0)) == ("receipt", "", "")
    assert log.unfinished() == [Opened("token", b"key\xff", 77)]


@spec("TRANSFER-23")
def test_what_was_written_is_read_by_the_next_process(tmp_path: Path) -> None:
    for path in (tmp_path / "sub" / "of sub" / "log", None):
        log = Log(path)
        fill(log)
        check(log)
        log.close()
        log.close()
        if path is not None:
            check(Log(path))
            assert (path.stat().st_mode | path.parent.stat().st_mode) & 0o077 == 0, "nobody else reads it"


@spec("TRANSFER-23")
def test_a_torn_or_damaged_record_ends_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path)
    log.add_placed(1, D, S, b"")
    whole = path.stat().st_size
    log.add_placed(2, D, S, b"")
    log.close()
    data = path.read_bytes()
    for torn in range(whole, len(data)):
        path.write_bytes(data[:torn])
        again = Log(path)
        assert again.placed(1) is not None
        assert again.placed(2) is None
        assert path.stat().st_size == whole
        again.add_placed(3, D, S, b"")
        again.close()
        assert Log(path).placed(3) is not None
    path.write_bytes(data[: whole + 20] + bytes((data[whole + 20] ^ 1,)) + data[whole + 21 :])
    assert Log(path).placed(2) is None
    path.write_bytes(data)
    assert Log(path).placed(2) is not None


@spec("TRANSFER-23", "TRANSFER-16")
def test_another_source_is_told_and_forgetting_lasts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path)
    fill(log)
    assert log.begin(2, b"etag")
    assert not log.begin(2, b"other")
    log.forget(2)
    assert log.begin(2, b"other")
    log.close()
    again = Log(path)
    assert again.blocks(2, 0, 1) is None
    assert (again.token(2), again.part(2, 0), again.unfinished()) == ("", "", [])
    assert again.placed(1) is not None
    assert not again.begin(2, b"etag")
    again.add_token(2, Opened("t1", b"k", 1))
    again.add_part(2, 0, "r")
    again.add_token(2, Opened("t2", b"k", 1))
    assert again.part(2, 0) == "", "parts belong to an upload"
    again.add_placed(2, D, S, b"")
    assert again.unfinished() == []
    again.close()


@spec("TRANSFER-23", "TRANSFER-24")
def test_logs_rotate_by_segment_and_free_uploads(tmp_path: Path) -> None:
    freed: list[str] = []
    logs = Logs(tmp_path, "place")
    one, two, three = (bytes((n,)) * 32 for n in (1, 2, 3))
    logs.of(one).add_token(0, Opened("t1", b"a", 1))
    logs.of(two).add_token(0, Opened("t2", b"b", 1))
    logs.of(three).add_placed(0, D, S, b"")
    assert logs.of(one) is logs.of(one)
    assert len(list(tmp_path.iterdir())) == 3
    logs.settled(one, lambda o: freed.append(o.token))
    assert freed == ["t1"]
    assert len(list(tmp_path.iterdir())) == 2
    logs.shut(three)
    assert logs.of(three).placed(0) is not None
    logs.close()
    later = Logs(tmp_path, "place")
    assert not later.published
    later.publishing()
    assert later.published
    assert Logs(tmp_path, "place").published
    Logs(tmp_path, "other").of(one).add_placed(0, D, S, b"")
    later.done(lambda o: freed.append(o.token))
    assert freed == ["t1", "t2"]
    assert [p.name.partition(".")[0] for p in tmp_path.iterdir()] == ["other"]
    assert not later.published


@spec("TRANSFER-23")
def test_what_says_that_publishing_began_is_nobody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "sub" / "of sub"
    logs = Logs(folder, "place")
    logs.publishing()
    logs.publishing()
    (said,) = folder.iterdir()
    assert (said.stat().st_mode | folder.stat().st_mode) & 0o077 == 0
    logs.done(lambda opened: None)
    logs.done(lambda opened: None)
    assert list(folder.iterdir()) == []


def test_a_log_that_is_shut_or_settled_holds_no_file_open(tmp_path: Path) -> None:
    def held() -> int:
        mine = Path("/proc/self/fd")
        return sum(str(tmp_path) in os.readlink(fd) for fd in mine.iterdir() if os.path.lexists(fd))

    logs, (one, two, three) = Logs(tmp_path, "place"), (bytes((n,)) * 32 for n in (1, 2, 3))
    for digest in (one, two, three):
        logs.of(digest).add_placed(0, D, S, b"")
    assert held() == 3
    logs.shut(one)
    assert held() == 2
    logs.shut(one)
    logs.settled(two, lambda opened: None)
    assert held() == 1
    logs.close()
    assert held() == 0


def test_logs_in_memory_last_until_they_are_settled() -> None:
    freed: list[str] = []
    logs = Logs(None, "place")
    logs.of(D).add_token(0, Opened("t", b"a", 1))
    logs.shut(D)
    assert logs.of(D).token(0) == "t"
    assert logs.published, "nobody knows"
    logs.publishing()
    logs.settled(D, lambda o: freed.append(o.token))
    assert freed == ["t"]
    assert logs.of(D).token(0) == ""
    logs.done(lambda o: freed.append(o.token))


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EACCES, "no-state")])
@spec("TRANSFER-18")
def test_a_log_that_cannot_be_written_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    log, logs = Log(tmp_path / "log"), Logs(tmp_path, "p")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(Unavailable) as told:
            log.add_placed(0, D, S, b"")
    assert told.value.code == code
    log.close()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", fail)
        with pytest.raises(Unavailable):
            logs.publishing()
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unavailable):
        Log(tmp_path / "folder")


def test_blocks_are_counted_upwards() -> None:
    from dls.logistics.digest import BLOCK

    assert [blocks_of(n) for n in (0, 1, BLOCK, BLOCK + 1)] == [0, 1, 1, 2]
