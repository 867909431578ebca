"""What lies where: the roots of buffers, and the catalogue's rows for an address."""

from __future__ import annotations

from dls.catalogue.model import Replica
from dls.logistics import url
from dls.logistics.buffer import HOLDING, Buffer
from dls.logistics.errors import Invalid, NotFound
from dls.madpp.action import Context
from dls.madpp.source import lies_in, overlap


def root_url(context: Context, buffer: Buffer) -> str:
    """The address of a buffer's root."""
    return str(url.parse(context.sites.get(buffer.storage).url).below(buffer.root))


def containing(context: Context, address: str) -> Buffer | None:
    """The buffer in which an address lies."""
    held = context.buffers.list(states=HOLDING)
    return next((b for b in held if lies_in(address, root_url(context, b))), None)


def apart(context: Context, address: str, doing: str) -> None:
    """Invalid where an address lies within a buffer, or has buffers below it: what is recorded there would go."""
    for buffer in context.buffers.list(states=HOLDING):
        root = root_url(context, buffer)
        if overlap(address, root):
            path = context.buffers.path(buffer)
            raise Invalid(
                f"cannot {doing} {address}: the buffer {path} "
                + ("holds it" if lies_in(address, root) else "lies in it"),
                code="in-buffer",
                buffer=buffer.id,
                path=path,
                remedy=f"buffers are ephemeral: save it with dls stage-out {path} --to SITE --as scope:name",
            )


def versions_at(context: Context, address: str) -> list[str]:
    """`scope:name@n` of the versions that lineage has seen at an address."""
    found: dict[str, None] = {}
    for one in context.catalogue.lineage(address, actor=context.actor, direction="both", depth=1):
        for port in (*one.used, *one.generated):
            if url.is_dataset(port.ref):
                found[port.ref] = None
    return list(found)


def replicas_at(context: Context, address: str, content: bytes = b"") -> list[Replica]:
    """The catalogue's rows for an address; `content` names what may lie there too."""
    wanted = versions_at(context, address)
    if content:
        wanted += [v.id for v in context.catalogue.by_content(content, actor=context.actor)]
    out: dict[str, Replica] = {}
    for id in dict.fromkeys(wanted):
        for one in context.catalogue.replicas(url.dataset(id), actor=context.actor, offered=False):
            if one.url == address:
                out[one.id] = one
    return list(out.values())


def replica_id(context: Context, version: str, address: str) -> str:
    """The id of a version's replica at an address."""
    for one in context.catalogue.replicas(url.dataset(version), actor=context.actor, offered=False):
        if one.url == address:
            return one.id
    raise NotFound(f"no replica of {version} at {address}", code="no-replica", dataset=version)
