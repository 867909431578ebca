"""The demo's computation: read every staged file and say something true about it.

    analyse.py FOLDER      writes coastlines.csv, palettes.csv and kinds.csv into the working folder

Coastlines (GSHHG) are HDF5 files: their superblock says where the file must end. Palettes (GMT's .cpt) are text: their
slices are counted and their value range taken. Everything else is counted by the folder it is in.
"""

from __future__ import annotations

import csv
import struct
import sys
from collections import Counter
from pathlib import Path


def hdf5_end(head: bytes) -> int:
    """The end-of-file address in an HDF5 superblock, bytes; -1 where there is none (HDF5 File Format Specification)."""
    if head[:8] != b"\x89HDF\r\n\x1a\n":
        return -1
    at = 40 if head[8] in (0, 1) else 28
    return int(struct.unpack_from("<Q", head, at + (4 if head[8] == 1 else 0))[0])


def palette(text: str) -> tuple[int, float, float]:
    """(slices, lowest, highest) of a colour palette."""
    slices, low, high = 0, float("inf"), float("-inf")
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or line.startswith(("#", "B", "F", "N")):
            continue
        try:
            first, second = float(words[0]), float(words[2 if len(words) == 4 else len(words) // 2])
        except ValueError:
            continue
        slices, low, high = slices + 1, min(low, first), max(high, second)
    return slices, low, high


def main(folder: Path) -> None:
    """Write the three tables."""
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    coast, palettes = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        kind = "/".join(name.parts[:2])
        kinds[kind] += 1
        sizes[kind] += path.stat().st_size
        if path.suffix == ".nc":
            end = hdf5_end(path.read_bytes()[:96])
            coast.append((name, path.stat().st_size, end, "whole" if end == path.stat().st_size else "DAMAGED"))
        elif path.suffix == ".cpt":
            palettes.append((name, *palette(path.read_text(errors="replace"))))
    for table, header, rows in (
        ("coastlines.csv", ("file", "bytes", "end_of_file_address", "state"), coast),
        ("palettes.csv", ("file", "slices", "lowest", "highest"), palettes),
        ("kinds.csv", ("kind", "files", "bytes"), [(k, n, sizes[k]) for k, n in sorted(kinds.items())]),
    ):
        with Path(table).open("w", newline="") as out:
            csv.writer(out).writerows([header, *rows])
    whole = sum(1 for row in coast if row[3] == "whole")
    print(f"{sum(kinds.values())} files read; {whole} of {len(coast)} HDF5 files end where their superblock says")
    print(f"{len(palettes)} palettes, {sum(p[1] for p in palettes)} colour slices")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
