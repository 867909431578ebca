"""`dls verify`: check copies against what was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dls.cli.command import detach, dry_run, verb
from dls.cli.front import Answer, Front
from dls.cli.words import files, place
from dls.logistics import names
from dls.logistics.errors import Corrupt, DlsError, worst
from dls.madpp.action import Facts
from dls.madpp.actions.verify import Verify

if TYPE_CHECKING:
    from dls.logistics.transfer.progress import Progress


ARCHIVES = (
    *(".sqfs", ".squashfs", ".erofs", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".rar", ".ext4", ".img"),
)
"""What a file that holds a tree is often called; any other is named by a path."""


@verb("verify")
@click.argument("dataset", metavar="SCOPE:NAME|IMAGE")
@click.option("--at", default="", metavar="SITE", help="Only the copies there.")
@click.option("--deep", is_flag=True, help="Trust nothing: read every byte again.")
@click.option("--sample", type=click.IntRange(1), default=1, metavar="N", help="Of an image: only every Nth file.")
@dry_run
@detach
def verify(front: Front, dataset: str, at: str, deep: bool, sample: int, dry_run: bool, detach: bool) -> None:
    """Check the copies of a dataset; files that are lost or hold other bytes are marked, for stage-in to repair.

    An image (a path that begins with / or ./, or ends with .sqfs) is read and compared with what was packed; an archive
    (tar, zip, rar, ext, SquashFS) is read with the checks that its format has.
    """
    if dataset.startswith(("/", "./", "../")) or dataset.endswith(ARCHIVES):
        _image(front, dataset, sample)
        return
    front.take(Verify(dataset, at, deep), _answer, dry_run=dry_run, detach=detach)


def _image(front: Front, path: str, sample: int) -> None:
    from dls.cli.images import NO_DIGESTS, opened

    wrong: list[DlsError] = []
    with opened(path, front=front) as image:
        from dls.fuse.listed import proven

        sure = proven(image)

        def work(progress: Progress, tell: Any) -> int:
            progress.phase = "checking"
            progress.files_total, progress.bytes_total = image.counts["files"], image.manifest.size if sure else 0
            count = 0
            for entry, error in image.verify(every=sample):
                count += 1
                progress.settled(1, entry.size)
                if error is not None:
                    wrong.append(error)
                    tell("note", {"text": f"{names.show(entry.path)}: {error.message}"})
            return count

        count = front.watch(work)
    gravest = worst(wrong)
    if gravest is not None:
        raise Corrupt(
            f"{path}: {len(wrong):,} of {count:,} files are not what was packed: {gravest.message}",
            code="bad-image", remedy="get the image again, or pack it anew", store=path,
        )  # fmt: skip
    facts = {"action": "verify", "image": path, "files": count, "state": "complete", "proven": sure}
    front.out.result(facts, path, [f"{place(path)}: {files(count)} read, {'all as packed' if sure else NO_DIGESTS}"])


def _answer(facts: Facts) -> Answer:
    lines = [f"{facts['dataset']}: every copy ({len(facts['replicas'])}) is right"]
    lines += [
        f"  {place(r['url'])}: {files(r['read'])} read, {r['trusted']:,} proven before" for r in facts["replicas"]
    ]
    return Answer(facts["dataset"], lines)
