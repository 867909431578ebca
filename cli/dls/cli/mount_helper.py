"""`mount.dls`: what mount(8) calls for `mount -t dls IMAGE FOLDER` and for a line of /etc/fstab.

    ln -s "$(command -v mount.dls)" /sbin/mount.dls
    /data/tiles.sqfs  /mnt/tiles  dls  defaults,nofail,servers=2  0 0

Words are those of mount(8): IMAGE FOLDER [-sfnv] [-o OPTIONS].  Ours among the options: `servers=N`, `allow_other`,
`idle_timeout=PT10M`, `cache=PATH`, `cache_size=SIZE`; those that mount(8) uses itself are passed over.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from dls.cli import main as door

_OURS: Final = {
    "servers": "--servers",
    "idle_timeout": "--idle-timeout",
    "cache": "--cache",
    "cache_size": "--cache-size",
}
_PASSED: Final = frozenset(
    {
        "ro",
        "rw",  # what mount(8) says where nobody said anything; writing is refused all the same
        "defaults",
        "auto",
        "noauto",
        "nofail",
        "_netdev",
        "user",
        "users",
        "nouser",
        "owner",
        "group",
        "nosuid",
        "nodev",
        "suid",
        "dev",
        "exec",
        "noexec",
        "relatime",
        "noatime",
        "nodiratime",
        "async",
        "sync",
        "dirsync",
        "default_permissions",
    }
)


def words_of(arguments: Sequence[str]) -> list[str]:
    """The words of `dls` for the words of mount(8); ValueError says what is wrong with them."""
    places, options, fake, rest = list[str](), list[str](), False, list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "-o":
            if not rest:
                raise ValueError("-o wants options after it")
            options += rest.pop(0).split(",")
        elif word.startswith("-o"):
            options += word[2:].split(",")
        elif word.startswith("-") and len(word) > 1:
            fake = fake or "f" in word
        else:
            places.append(word)
    if len(places) != 2:
        raise ValueError("an image and a folder are wanted: mount.dls IMAGE FOLDER [-o OPTIONS]")
    out = ["--quiet", "mount", *places]
    for option in options:
        name, _, value = option.partition("=")
        if name in _OURS and value:
            out += [_OURS[name], value]
        elif name == "allow_other":
            out.append("--allow-other")
        elif name and name not in _PASSED and not name.startswith(("x-", "comment")):
            raise ValueError(f"unknown option {option!r}; ours are allow_other, {', '.join(sorted(_OURS))}")
    return ["--quiet", "version"] if fake else out


def main() -> int:
    """Mount as mount(8) asks; exit status 0, 1 for wrong words, 32 for a failed mount."""
    try:
        words = words_of(sys.argv[1:])
    except ValueError as problem:
        return _wrong(str(problem))
    return 32 if door.run(words) else 0


def _wrong(text: str) -> int:
    from dls.cli.render import opened

    opened(as_json=False, quiet=False, secrets=[]).error(
        {"message": text, "code": "bad-usage", "remedy": "see man 8 mount, and dls mount --help"}
    )
    return 1
