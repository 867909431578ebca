"""Small: 20,000 × 10 KB (reduced 2,000), HTTP→disk from nginx, beside curl and rclone, in memory at both ends."""

from __future__ import annotations

import stat
from contextlib import ExitStack

from bench import ours, peers
from bench.contender import Contender, Turn, Words
from bench.rounds import Bench, Place
from bench.scene import SMALL, small_count
from bench.verify import same_files
from components import tree
from components.nginx import nginx

OPTIONS = "--silent --show-error --fail --create-dirs --parallel --parallel-max 32"


def benches(stack: ExitStack, place: Place, full: bool) -> list[Bench]:
    """Start the server and list who takes part.  curl is told every name; ours and rclone read the indexes."""
    work, files = place.memory / "http", small_count(full)
    source = work / "served" / "in"
    total = tree.small(source, files, size=SMALL)
    # As rclone needs it: an index in HTML.
    service = stack.enter_context(nginx(work, index="html", requests=1_000_000))
    url, check = f"{service.endpoint}/in", same_files(source, lambda turn: turn.target)
    names = work / "names"
    names.write_text(
        "".join(
            f'url = "{url}/{path.decode()}"\noutput = "{path.decode()}"\n'
            for path, found in tree.walk(source)
            if stat.S_ISREG(found.st_mode)
        )
    )

    def curl(turn: Turn) -> Words:
        return ["curl", *OPTIONS.split(), "--output-dir", turn.target, "-K", names]

    rclone = peers.rclone(
        "rclone",
        lambda turn: [":http:", turn.target, "--http-url", url],
        check,
        peers.rclone_env(),
        verified=False,
    )
    return [
        Bench(
            "small-http-down",
            files,
            total,
            [
                ours.stage_dataset("bench:data", url, check),
                ours.stage_in(url, check, name="dls-url"),
                Contender("curl", curl, check=check),
                rclone,
            ],
            peer="curl",
            floor="rclone",
            targets=place.memory,
            keep=False,
            servers=[child.pid for child in service.children],
        )
    ]
