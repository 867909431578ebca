"""compute: run a command on staged inputs, into a leased output buffer, and record what made what."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from dls.catalogue.changes import AddActivity, AddReplica, AddVersion, Change, PutDataset
from dls.catalogue.model import Port
from dls.logistics import digest as digests
from dls.logistics import duration, names, url
from dls.logistics.buffer import Buffer
from dls.logistics.errors import Conflict, DlsError, Invalid, NotFound, Unavailable, Unsupported
from dls.logistics.frozen import frozen
from dls.logistics.site import Storage
from dls.logistics.store import Store
from dls.logistics.stores.posix_errors import met
from dls.logistics.transfer.listing import listed
from dls.logistics.transfer.plan import survey
from dls.logistics.transfer.prove import Proof, prove
from dls.madpp.action import Context, Facts, bounded, checked
from dls.madpp.actions.child import execute
from dls.madpp.actions.release import finish, let_go
from dls.madpp.actions.stage_in import StageIn
from dls.madpp.copying import alone, failed
from dls.madpp.facts import hardware, software
from dls.madpp.layout import open_held
from dls.madpp.places import root_url
from dls.madpp.record import counts, evidence, placed, record, versioned
from dls.madpp.saved import NOTHING, beyond, spoiled
from dls.madpp.source import lifetime, new_name
from dls.madpp.todo import made_before

_ENDED = names.HIDDEN.decode() + "ended"
"""Hidden file in the output that says: the command has ended well.  A repetition within the run then only records."""


@frozen
class Compute:
    """`dls run --in DATASET … --out SCOPE:NAME --at SITE -- COMMAND`.

    The command finds its inputs in `DLS_IN` (the first) and `DLS_IN_1`, `DLS_IN_2` …, writes into `DLS_OUT`, which is
    also its working folder; `{in}`, `{in1}`, `{in2}` … and `{out}` in its words are replaced by the same paths.
    """

    command: tuple[str, ...]
    at: str
    inputs: tuple[str, ...] = ()
    output: str = ""
    lifetime: str = ""
    once: bool = False
    """Do nothing where the same command has made the newest version of the output from the same inputs."""
    name: ClassVar[str] = "compute"

    def check(self, context: Context) -> list[DlsError]:
        """Is there a command, is the site a folder here, can every input be staged?"""
        stages = [error for one in self._stages() for error in one.check(context)]
        found = checked(
            lambda: self._program(context),
            lambda: new_name(context, self.output) if self.output else None,
            lambda: duration.read_duration(self.lifetime) if self.lifetime else None,
            lambda: self._here(context),
        )
        return [*found, *(e for e in stages if str(e) not in {str(f) for f in found})]

    def _program(self, context: Context) -> str:
        """The program that the first word means: on the PATH of jobs, or relative to where the request was made."""
        if not self.command or not self.command[0]:
            raise Invalid("no command to run", code="no-command", remedy="write it after --: dls run … -- COMMAND ARGS")
        program = self.command[0]
        if "{" in program:
            return program
        asked = os.path.join(context.cwd, program) if "/" in program else program  # noqa: PTH118 - `..` stays as written
        found = shutil.which(asked, path=context.environ.get("PATH", os.defpath))
        if found is None:
            raise NotFound(f"no such program: {program}", code="no-program", remedy="give its path, or check PATH")
        return found

    def _here(self, context: Context) -> Storage:
        storage = context.sites.get(self.at)
        if url.parse(storage.url).scheme != "file":
            raise Unsupported(
                f"{storage.id} is not a folder of this machine: nothing can run there",
                code="no-executor",
                site=storage.id,
                remedy="choose a site whose storage is a folder",
            )
        return storage

    def settled(self, context: Context) -> str:
        """Why there is nothing to do; '' where there is."""
        return made_before(context, self.command, self.at, self.inputs, self.output) if self.once else ""

    def _stages(self) -> list[StageIn]:
        return [StageIn(one, self.at, self.lifetime) for one in self.inputs]

    def preview(self, context: Context) -> Facts:
        """What would be staged first."""
        stages = [one.preview(context) for one in self._stages()]
        seconds = {k: sum(s["eta"][k] for s in stages) for k in ("seconds", "low", "high")}
        facts = {
            "what": shlex.join(self.command),
            "to": self.at,
            "files": sum(s["files"] for s in stages),
            "bytes": sum(s["bytes"] for s in stages),
            "route": [r for s in stages for r in s["route"]],
            "eta": {**seconds, "from": "staging alone: how long the command takes is not known"},
            "stages": stages,
        }
        return bounded(facts)

    def run(self, context: Context) -> Facts:
        """Stage in, run, hash what came out, record."""
        past = self.settled(context)
        if past:
            return bounded({"skipped": past})
        words = shlex.join([*self.command, "--", self.output, *self.inputs])
        content = digests.of(f"output of {context.run} {context.step} {words}".encode("utf-8", "surrogateescape"))
        storage = self._here(context)
        with alone(context, content, storage.id) as claim:
            staged = [one.run(context) for one in self._stages()]
            with _leased(context, staged, lifetime(self.lifetime, storage)) as inputs:
                facts = self._work(context, storage, content, staged, inputs)
            claim.finish({"buffer": facts["buffer"], "run": context.run})
        return bounded(facts)

    def _work(
        self, context: Context, storage: Storage, content: bytes, staged: list[Facts], inputs: list[Buffer]
    ) -> Facts:
        out = self._output_buffer(context, storage, content)
        store = context.open_store(root_url(context, out))
        folder = _folder(store.url)
        context.buffers.filling(out.id, by=context.actor.name)
        context.buffers.revoke(NOTHING + out.id, by=context.actor.name)
        started = context.now()
        with met(store.url):
            Path(folder).mkdir(parents=True, exist_ok=True)
            ended = Path(folder, _ENDED).exists()
        if not ended:
            self._execute(context, out, folder, [_folder(root_url(context, one)) for one in inputs])
        changed = _changed(context, staged, inputs)
        return self._record(context, staged, out, store, started, changed)

    def _execute(self, context: Context, out: Buffer, folder: str, ins: Sequence[str]) -> None:
        words = _filled((self._program(context), *self.command[1:]), ins, folder)
        path = context.buffers.path(out)
        context.say("command", {"command": list(self.command), "out": path})
        extra = {"DLS_OUT": folder, **{f"DLS_IN_{n}": one for n, one in enumerate(ins, 1)}}
        if ins:
            extra["DLS_IN"] = ins[0]
        status = execute(context, words, folder, {**context.environ, **extra})
        store, left = context.open_store(root_url(context, out)), Path(folder).is_dir()
        if status == 0 and left:
            with met(store.url):
                _mark_ended(folder)
            return
        if left:
            _measured(context, out, store)
        how = f"ended with exit status {status}" if status >= 0 else f"was ended by signal {-status}"
        raise Unavailable(
            f"the command {shlex.join(self.command)[:200]} {how if status else f'left no folder at {path}'}; "
            "nothing was registered",
            code="command-failed",
            status=status,
            path=path,
            buffer=out.id,
            remedy=f"look at what it printed and at {path}, then run the same again"
            if left
            else "have it write into its working folder, $DLS_OUT, and leave that where it is",
        )

    def _output_buffer(self, context: Context, storage: Storage, content: bytes) -> Buffer:
        return context.buffers.reserve(
            storage.id,
            content=content,
            label=self.output or f"output-{context.run}",
            bytes=0,
            inodes=1,
            user=context.actor.name,
            actor=context.actor,
            lifetime_s=lifetime(self.lifetime, storage),
        )

    def _record(
        self, context: Context, staged: Sequence[Facts], out: Buffer, store: Store, started: int, changed: list[str]
    ) -> Facts:
        proof, key, number = _measured(context, out, store), self.output, 0
        step = f"compute {out.id}"
        changes: list[Change] = []
        if key:
            note = shlex.join(self.command)[:200]
            version, number = versioned(context, step, key, proof.manifest, note)
            kept = evidence(context, "hashed where it was made", buffer=out.id)
            replica = AddReplica(key, store.url, number, out.storage, evidence=kept)
            changes = [PutDataset(key), *version, *placed(context, replica)]
        which = f"{key}@{number}" if number else key
        made = (Port(which, "out"),) if key else ()
        program = {"program": self._program(context)}
        activity = AddActivity(
            "compute",
            used=tuple(Port(s["dataset"], f"in{n or ''}") for n, s in enumerate(staged)),
            generated=(*made, Port(store.url, "buffer")),
            started_ns=started,
            command=self.command,
            where=out.storage.partition("/")[0],
            software={**software(), **program, **({"inputs_changed": changed} if changed else {})},
            hardware=hardware(),
        )
        done = record(context, step, changes, activity)
        return {
            "dataset": done.of(AddVersion).id or which,
            "inputs": [{"dataset": s["dataset"], "path": s["path"], "copied": s["copied"]} for s in staged],
            "inputs_changed": changed,
            "buffer": out.id,
            "path": context.buffers.path(out),
            "activity": done.activity,
            "saved": False,
            **counts(proof.manifest),
        }


def _mark_ended(folder: str) -> None:
    """Leave the hidden mark, also in a folder that the command has made read-only."""
    mark = Path(folder, _ENDED)
    try:
        mark.touch()
    except PermissionError:
        mode = stat.S_IMODE(Path(folder).stat().st_mode)
        Path(folder).chmod(mode | stat.S_IRWXU)
        mark.touch()
        Path(folder).chmod(mode)


def _folder(address: str) -> str:
    return "/" + os.fsdecode(url.parse(address).path)


def _filled(command: Sequence[str], ins: Sequence[str], out: str) -> list[str]:
    """The words with `{in}`, `{in1}` …, `{out}` replaced."""
    places = {"{out}": out, **{f"{{in{n}}}": path for n, path in enumerate(ins, 1)}}
    if ins:
        places["{in}"] = ins[0]
    words = []
    for word in command:
        for mark, path in places.items():
            word = word.replace(mark, path)
        words.append(word)
    return words


@contextmanager
def _leased(context: Context, staged: Sequence[Facts], lifetime_s: int) -> Iterator[list[Buffer]]:
    """Leases of the run itself, so that nobody frees an input under the command; given back afterwards."""
    held: dict[str, Buffer] = {}
    try:
        for one in staged:
            buffer = context.buffers.open(one["buffer"])
            leased = context.buffers.reserve(
                buffer.storage,
                content=buffer.content,
                label=buffer.label,
                bytes=0,
                inodes=0,
                user=context.run,
                actor=context.actor,
                lifetime_s=lifetime_s,
            )
            held[leased.id] = leased
            if leased.id != buffer.id:
                raise Conflict(f"the input buffer {buffer.id} was released meanwhile", code="buffer-state")
        yield [held[one["buffer"]] for one in staged]
    finally:
        for id in held:
            _let_go(context, id)


def _let_go(context: Context, id: str) -> None:
    """End the run's lease; where it was the last, the buffer is freed if that loses nothing, else it stays."""
    try:
        step = let_go(context, context.buffers.open(id), context.run)
        if step is not None:
            finish(context, step)
    except DlsError as exc:
        if exc.code != "buffer-dirty":
            context.note(f"the lease of {context.run} on the buffer {id} stays until it ends: {exc}")


def _changed(context: Context, staged: Sequence[Facts], inputs: Sequence[Buffer]) -> list[str]:
    """The inputs that are no longer what was staged: their buffers are dirty from now on."""
    changed = dict[str, None]()
    for facts, buffer in zip(staged, inputs, strict=True):
        version = context.catalogue.version(url.dataset(facts["dataset"]), actor=context.actor)
        held = beyond(context, open_held(context, buffer), version, missing=True)
        if held and facts["dataset"] not in changed:
            changed[facts["dataset"]] = None
            spoiled(context, buffer, held)
            path = context.buffers.path(buffer)
            context.note(f"the command changed its input {facts['dataset']}: {held.words}; {path} is kept as it is")
    return list(changed)


def _measured(context: Context, out: Buffer, store: Store) -> Proof:
    """Hash what lies in the output, and count it."""
    found = listed(store, context.folder)
    size = survey(found.manifest.segments(), store.keeps, store.names, store.room, store.space().block)
    context.buffers.settle(out.id, size.allocated, size.inodes + 1, by=context.actor.name)
    proof = prove(
        store, found, context.receipts, logs=context.folder, options=context.options, progress=context.progress
    )
    failed(proof.unread, f"reading {store.url}")
    return proof
