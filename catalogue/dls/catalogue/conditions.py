"""Conditions of SQL queries: what an actor sees, what a search looks for.  Each comes with the values that it binds."""

from __future__ import annotations

from dls.catalogue.model import State
from dls.catalogue.tables import marks
from dls.logistics.actor import PUBLIC, Actor


def audiences(actor: Actor) -> list[str]:
    """Those whose records the actor sees."""
    return sorted(actor.audiences | {PUBLIC})


def sees(column: str, actor: Actor) -> tuple[str, list[str]]:
    """A condition that a column names one of the actor's audiences, and its values."""
    mine = audiences(actor)
    return f"{column} IN ({marks(len(mine))})", mine


def matching(prefix: str, text: str, state: State | None) -> tuple[str, list[str]]:
    """Conditions of a search, to follow others, and their values."""
    where, values = "", []
    if prefix:
        where, values = " AND d.key >= ? AND d.key < ?", [prefix, prefix + "\x7f"]  # keys are ASCII
    if state is not None:
        where, values = where + " AND d.state = ?", [*values, state.value]
    for word in text.casefold().split():
        escaped = word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        where, values = where + " AND d.words LIKE ? ESCAPE '\\'", [*values, f"%{escaped}%"]
    return where, values
