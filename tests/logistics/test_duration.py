"""Amounts as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dls.logistics import duration
from dls.logistics.errors import Invalid


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("P7D", 604_800),
        ("PT12H", 43_200),
        ("P1DT6H30M15S", 109_815),
        ("P2W", 1_209_600),
        ("PT1.5H", 5_400),
        ("PT0,5H", 1_800),
        ("PT90S", 90),
        ("PT0S", 0),
        ("P36500D", 36_500 * 86_400),
    ],
)
def test_durations_are_read(text: str, seconds: int) -> None:
    assert duration.read_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("P1Y", "P365D"),
        ("P2M", "P60D"),
        ("P2M", "PT2M"),
        ("P1Y6MT3H", "P365D"),
        ("7d", "write P7D"),
        ("12 hours", "write PT12H"),
        ("30min", "write PT30M"),
        ("2w", "write P2W"),
        ("10 m", "write PT10M"),
        ("", "P7D"),
        ("P", "P7D"),
        ("PT", "P7D"),
        ("P1DT", "P7D"),
        ("-P1D", "P7D"),
        ("p7d", "P7D"),
        ("P7D ", "P7D"),
        ("P7D\n", "P7D"),
        ("P٣D", "P7D"),
        ("P1.5DT1H", "P7D"),
        ("PT0.5S", "P7D"),
        ("PT12H30", "P7D"),
        ("P36601D", "P36500D"),
        ("P999999999999D", "P36500D"),
    ],
)
def test_other_durations_are_refused_with_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(Invalid) as caught:
        duration.read_duration(text)
    assert hint in caught.value.remedy


@given(st.integers(0, duration.LONGEST_S))
def test_durations_round_trip(seconds: int) -> None:
    assert duration.read_duration(duration.write_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (0.34, "0.3 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7_500, "2 h 05 min"),
        (86_369, "23 h 59 min"),
        (86_371, "1 d 00 h"),
        (273_600, "3 d 04 h"),
        (400 * 86_400, "400 d 00 h"),
    ],
)
def test_durations_are_shown(seconds: float, shown: str) -> None:
    assert duration.show_duration(seconds) == shown


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10GB", 10**10),
        ("10 GiB", 10 * 2**30),
        ("512MB", 512 * 10**6),
        ("1.5TiB", 3 * 2**39),
        ("4096", 4096),
        ("4096B", 4096),
        ("0", 0),
        ("2kB", 2000),
        ("2KB", 2000),
        ("2KiB", 2048),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert duration.read_size(text) == count


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10G", "10GB (powers of 1000) or 10GiB"),
        ("10gb", "10GB"),
        ("10k", "10kB (powers of 1000) or 10KiB"),
        ("10Mb", "10MB"),
        ("10 apples", "10GB"),
        ("-1GB", "10GB"),
        ("", "10GB"),
        ("GB", "10GB"),
        ("1.5", "10GB"),
        ("0.3B", "10GB"),
        ("9223372036854775808", "10GB"),
        ("10EB", "10GB"),
        ("1e9", "10GB"),
        ("١GB", "10GB"),
    ],
)
def test_other_sizes_are_refused_with_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(Invalid) as caught:
        duration.read_size(text)
    assert hint in caught.value.remedy


@given(st.integers(0, duration.LARGEST) | st.integers(0, 2000).map(lambda n: n * 2**30))
def test_sizes_round_trip(count: int) -> None:
    assert duration.read_size(duration.write_size(count)) == count


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_240_000_000, "3.2 GB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (10**21, "1000.0 EB"),
    ],
)
def test_sizes_are_shown(count: int, shown: str) -> None:
    assert duration.show_size(count) == shown


@pytest.mark.parametrize("write", [duration.write_duration, duration.write_size])
def test_negative_amounts_are_not_written(write: object) -> None:
    with pytest.raises(Invalid):
        write(-1)  # type: ignore[operator]


def test_exact_sizes_are_short() -> None:
    assert [duration.write_size(n) for n in (0, 10**10, 10 * 2**30, 1234)] == ["0B", "10GB", "10GiB", "1234B"]
