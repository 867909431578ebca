"""Amounts as people write them: ISO 8601 durations in seconds, sizes in bytes, and how both are shown."""

from __future__ import annotations

import re
from decimal import Decimal

from dls.logistics.errors import Invalid

MINUTE, HOUR, DAY, WEEK = 60, 3600, 86_400, 604_800

LONGEST_S = 100 * 366 * DAY
"""A lease or a retention of over a century is a slip of the pen."""
LARGEST = 2**63 - 1
"""What a database column holds, bytes."""

_NUMBER = r"\d{1,12}(?:[.,]\d{1,9})?"
_ISO = re.compile(
    rf"P(?:(?P<years>{_NUMBER})Y)?(?:(?P<months>{_NUMBER})M)?(?:(?P<weeks>{_NUMBER})W)?(?:(?P<days>{_NUMBER})D)?"
    rf"(?P<time>T(?:(?P<hours>{_NUMBER})H)?(?:(?P<minutes>{_NUMBER})M)?(?:(?P<seconds>{_NUMBER})S)?)?\Z",
    re.ASCII,
)
_SECONDS = {"weeks": WEEK, "days": DAY, "hours": HOUR, "minutes": MINUTE, "seconds": 1}
_LOOSE = re.compile(r"\s*(\d{1,12})\s*(w|d|h|m|s|weeks?|days?|hours?|min|minutes?|sec|seconds?)\s*\Z", re.IGNORECASE)
_DURATIONS = "write an ISO 8601 duration: P7D (7 days), PT12H (12 hours), P1DT6H, PT90S"

_SIZE = re.compile(r"\s*(?P<number>\d{1,19}(?:\.\d{1,9})?)\s*(?P<unit>[A-Za-z]*)\s*\Z", re.ASCII)
_PREFIXES = "kMGTPE"
_UNITS = {"": 1, "B": 1}
for _power, _prefix in enumerate(_PREFIXES, 1):
    _UNITS[f"{_prefix}B"] = 1000**_power
    _UNITS[f"{_prefix.upper()}iB"] = 1024**_power
_UNITS["KB"] = 1000  # often seen; the others have one spelling
_SIZES = "write bytes with a unit: 512MB, 10GB (10^9), 10GiB (2^30), 4096B"


def read_duration(text: str) -> int:
    """Seconds of an ISO 8601 duration.  Invalid: not one, years or months, parts of a second, over a century."""
    found = _ISO.match(text)
    parts = {k: v for k, v in (found.groupdict() if found else {}).items() if v}
    if found is None or not parts or parts.get("time") == "T":
        raise _bad_duration(text)
    parts.pop("time", None)
    _refuse_calendar(text, parts)
    if any("." in value or "," in value for value in list(parts.values())[:-1]):
        raise Invalid(
            f"only the smallest part of a duration may have decimals: {text}", code="bad-duration", remedy=_DURATIONS
        )
    total = sum(Decimal(value.replace(",", ".")) * _SECONDS[name] for name, value in parts.items())
    if total != int(total):
        raise Invalid(f"a duration has whole seconds: {text}", code="bad-duration", remedy=_DURATIONS)
    if total > LONGEST_S:
        raise Invalid(f"a duration of over a century: {text}", code="bad-duration", remedy="write at most P36500D")
    return int(total)


def _refuse_calendar(text: str, parts: dict[str, str]) -> None:
    """Years and months differ in length, so a lease that counts them would end at a surprising time."""
    for name, days in (("years", 365), ("months", 30)):
        if name in parts:
            count = int(Decimal(parts[name].replace(",", ".")) * days)
            minutes = f", or PT{parts[name]}M for minutes" if name == "months" else ""
            raise Invalid(
                f"{name} have no fixed length: {text}",
                code="ambiguous-duration",
                duration=text,
                remedy=f"write days: P{count}D{minutes}",
            )


def _bad_duration(text: str) -> Invalid:
    loose, remedy = _LOOSE.match(text), _DURATIONS
    if loose:
        letter = loose[2][0].upper()
        remedy = f"write {'PT' if letter in 'HMS' else 'P'}{loose[1]}{letter}"
    return Invalid(f"not a duration: {text[:100]!r}", code="bad-duration", duration=text[:100], remedy=remedy)


def write_duration(seconds: int) -> str:
    """The ISO 8601 form that `read_duration` reads back: P7D, P1DT6H, PT0S."""
    if seconds < 0:
        raise Invalid(f"a duration is not negative: {seconds} s", code="bad-duration", remedy=_DURATIONS)
    days, rest = divmod(seconds, DAY)
    hours, rest = divmod(rest, HOUR)
    minutes, rest = divmod(rest, MINUTE)
    time = "".join(f"{value}{unit}" for value, unit in ((hours, "H"), (minutes, "M"), (rest, "S")) if value)
    if not days and not time:
        return "PT0S"
    return "P" + (f"{days}D" if days else "") + (f"T{time}" if time else "")


def show_duration(seconds: float) -> str:
    """Two leading parts for people: `0.3 s`, `45 s`, `2 min 05 s`, `2 h 05 min`, `3 d 04 h`; rounded to the nearest."""
    if 0 < seconds < 9.95:  # below ten seconds a tenth is worth a look
        return f"{seconds:.1f} s"
    whole = max(0, round(seconds))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    minutes = (whole + MINUTE // 2) // MINUTE
    if minutes < DAY // MINUTE:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = (whole + HOUR // 2) // HOUR
    return f"{hours // 24} d {hours % 24:02d} h"


def read_size(text: str) -> int:
    """Bytes of a size.  Invalid: not one, a unit that could mean two things, parts of a byte, over 2^63-1."""
    found = _SIZE.match(text)
    if not found:
        raise Invalid(f"not a size: {text[:100]!r}", code="bad-size", size=text[:100], remedy=_SIZES)
    number, unit = found["number"], found["unit"]
    if unit not in _UNITS:
        raise Invalid(
            f"unknown unit of bytes: {unit}", code="bad-size", size=text[:100], remedy=_unit_remedy(number, unit)
        )
    value = Decimal(number) * _UNITS[unit]
    if value != int(value) or value > LARGEST:
        why = "has a part of a byte" if value != int(value) else "is more than 2^63-1 bytes"
        raise Invalid(f"a size that {why}: {text}", code="bad-size", size=text[:100], remedy=_SIZES)
    return int(value)


def _unit_remedy(number: str, unit: str) -> str:
    letter = unit[:1].upper()
    if letter in "KMGTPE" and unit.upper() in {letter, f"{letter}B", f"{letter}IB"}:
        decimal = "kB" if letter == "K" else f"{letter}B"
        return f"write {number}{decimal} (powers of 1000) or {number}{letter}iB (powers of 1024)"
    return _SIZES


def write_size(count: int) -> str:
    """The shortest exact form that `read_size` reads back: 10GB, 10GiB, 1234B."""
    if count < 0:
        raise Invalid(f"a size is not negative: {count}", code="bad-size", remedy=_SIZES)
    exact = [f"{count // value}{unit}" for unit, value in _UNITS.items() if unit and count % value == 0]
    return min(exact, key=len)


def show_size(count: int) -> str:
    """One decimal and a unit of powers of 1000 for people: `999 B`, `3.2 GB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for prefix in _PREFIXES:
        value /= 1000
        if value < 999.95 or prefix == _PREFIXES[-1]:  # what rounds to 1000.0 goes one unit up
            break
    return f"{value:.1f} {prefix}B"
