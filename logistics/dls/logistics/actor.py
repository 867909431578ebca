"""Who asks: an actor is a name and the set of audiences it belongs to; access is part of every query."""

from __future__ import annotations

from dls.logistics.frozen import frozen

PUBLIC = "public"


@frozen
class Actor:
    """Somebody, or a service, that asks for something."""

    name: str
    """`user@host` on a laptop; the subject of a token on a service."""
    audiences: frozenset[str] = frozenset({PUBLIC})
    """Groups whose records this actor may see; every actor sees the public ones."""
    on_behalf_of: str = ""
    """The person for whom a service acts."""

    def sees(self, audience: str) -> bool:
        """Whether a record for this audience is visible to the actor."""
        return audience == PUBLIC or audience in self.audiences


def local(name: str) -> Actor:
    """The one user of an embedded installation: sees everything that is local."""
    return Actor(name, frozenset({PUBLIC, "local"}))
