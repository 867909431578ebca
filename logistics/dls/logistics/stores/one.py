"""One file of a store, under a name of the caller's choice: what is copied may so be called otherwise at its target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dls.logistics import names as legal
from dls.logistics import url as urls
from dls.logistics.entry import Entry
from dls.logistics.errors import Invalid, NotFound
from dls.logistics.names import Names
from dls.logistics.store import Can, Got, Keeps, Stamps, Stat, Store, Want
from dls.logistics.stores.refusing import Refusing


class OneStore(Refusing):
    """A store with one key, `name`, which is `key` in the store `above`; only read."""

    can: frozenset[Can] = frozenset()
    names = Names()
    why = "it is only read"

    def __init__(self, above: Store, key: bytes, name: bytes) -> None:
        self.url = str(urls.parse(above.url).below(key))
        self.keeps: Keeps = above.keeps
        self.room = 0
        self._above, self._key, self._name = above, legal.check(key), legal.check(name)

    def stat(self, key: bytes) -> Stat:
        found = self._above.stat(self._real(key))
        return found._replace(entry=found.entry._replace(path=self._name))

    def list(self, prefix: bytes = b"") -> Iterator[Entry]:
        self._open()
        if self._name.startswith(prefix) and self.exists():
            yield self.stat(self._name).entry

    def read(self, key: bytes, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return self._above.read(self._real(key), start, stop)

    def stamps(self, keys: Sequence[bytes]) -> Stamps:
        self._open()
        (stamp,) = self._above.stamps([self._key])
        return [stamp if legal.check(key) == self._name else b"" for key in keys]

    def fetch(self, wants: Sequence[Want]) -> Iterator[Got]:
        self._open()
        mine = [want._replace(key=self._key) for want in wants if want.key == self._name]
        yield from self._above.fetch(mine)
        for want in wants:
            if want.key != self._name:
                yield Got(want.i, b"", self._missing(want.key))

    def below(self, prefix: bytes, *, staging: bool = False) -> Store:
        raise Invalid(f"{self.url} is one file: nothing lies below it", code="bad-name", key=legal.show(prefix))

    def exists(self) -> bool:
        self._open()
        return bool(self._above.stamps([self._key])[0])

    def close(self) -> None:
        """The store above stays open."""
        self._closed = True

    def _real(self, key: bytes) -> bytes:
        self._open()
        if legal.check(key) != self._name:
            raise self._missing(key)
        return self._key

    def _missing(self, key: bytes) -> NotFound:
        shown = legal.show(key)
        return NotFound(
            f"there is no {shown} in {self.url}", code="no-such-key", key=shown, store=self.url, remedy="check the name"
        )
