"""The store that reads over HTTP, against every rule of specs/store.md, on three real servers.

What HTTP cannot do, write, is done by the side door: the folder that is served (`dls.logistics.testing.served`).
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.components.http_plain import python_server
from tests.components.nginx import HttpService, nginx, nginx_installed
from tests.components.s3 import http_answers

from dls.logistics.credentials import HttpCredentials, token_name
from dls.logistics.errors import DlsError, Invalid, Unsupported
from dls.logistics.names import Names
from dls.logistics.store import Can, Item, Keeps, Store
from dls.logistics.stores.http import HttpStore
from dls.logistics.stores.memory import MemoryStore
from dls.logistics.stores.posix import PosixStore
from dls.logistics.testing.contract import StoreContract
from dls.logistics.testing.planted import VIOLATIONS, MemoryContract, failures
from dls.logistics.testing.served import Served
from dls.logistics.testing.spec import deviation, spec
from dls.logistics.url import parse

SECRET = "hush-hush-token"
NGINX_DOTS = "nginx leaves names that begin with a dot out of its indexes"
SECONDS = "a change within one second that keeps the size cannot be told"
NO_SUMS = "says no checksums"


class HttpContract(StoreContract):
    """A folder of a real server on loopback."""

    can = frozenset({Can.SUMS})
    keeps = Keeps()
    names = Names(part_bytes=255, key_bytes=2000)
    raw = True
    examples = 8
    secrets = (SECRET,)
    service: HttpService

    def _folder(self, place: Path) -> Path:
        named = place / "folder"  # the same folder, the same address
        if not named.exists():
            named.write_text(f"f-{uuid.uuid4().hex[:20]}")
        return self.service.root / named.read_text() / "pre fix"

    @contextmanager
    def make(self, place: Path) -> Iterator[Store]:
        folder = self._folder(place)
        url = parse(f"{self.service.endpoint}/{folder.parent.name}/pre%20fix")
        host, _, port = url.place.partition(":")
        credentials = HttpCredentials({token_name(host, int(port)): SECRET})
        folder.mkdir(parents=True, exist_ok=True)
        with closing(Served(HttpStore(url, credentials), PosixStore(folder), self.names)) as store:
            yield store

    def raw_put(self, key: bytes, data: bytes) -> None:
        (self._folder(self.place) / key.decode()).write_bytes(data)

    def raw_get(self, key: bytes) -> bytes:
        with open(bytes(self._folder(self.place)) + b"/" + key, "rb") as file:
            return file.read()

    def raw_keys(self) -> list[bytes]:
        top = self._folder(self.place)
        return sorted(bytes(p.relative_to(top)) for p in top.rglob("*") if p.is_file())

    @contextmanager
    def break_it(self) -> Iterator[None]:
        """The server is gone: nobody listens on its port."""
        (child,) = self.service.children
        child.stop()
        try:
            yield
        finally:
            child.start().wait_ready(lambda: http_answers(self.service.endpoint))

    @spec("HTTP-1")
    def test_what_would_write_is_refused_at_the_call(self, store: Store) -> None:
        store.write(b"k", [b"x"])
        assert isinstance(store, Served)
        reader = store.reader
        calls: list[Callable[[], object]] = [
            lambda: reader.write(b"k", iter([b"y"])),
            lambda: reader.put(iter([Item(0, b"k", b"y")])),
            lambda: reader.delete(b"k"),
            lambda: reader.upload(b"k", 1),
            lambda: reader.move([(b"k", b"l")]),
            lambda: reader.wipe(),
            lambda: reader.below(b"a").wipe(),
            lambda: reader.sync(),
            lambda: reader.space(),
            lambda: reader.recall([b"k"]),
        ]
        for call in calls:
            with pytest.raises(Unsupported) as told:
                call()
            assert told.value.remedy
        for call in (lambda: reader.write(b"../k", []), lambda: reader.delete(b"a//b"), lambda: reader.upload(b"", 1)):
            with pytest.raises(Invalid):
                call()
        assert self.raw_keys() == [b"k"]

    @spec("HTTP-8")
    def test_what_is_no_file_of_its_own(self, store: Store) -> None:
        store.write(b"folder/file", [b"x"])
        for call in (lambda: store.stat(b"folder"), lambda: store.read(b"folder"), lambda: store.sums(b"folder")):
            with pytest.raises(DlsError) as told:
                call()
            assert told.value.code == "no-such-key"
        assert store.stamps([b"folder"]) == [b""]
        one = store.below(b"folder/file")
        assert list(one.list()) == [], "nothing lies below a file"
        assert not one.exists()


# What a store around two stores could hide, it does not: violations of the reader are seen through it.
READING = [
    "LosesTheLastByte",
    "MissesLate",
    "MissesWithoutName",
    "ReadsInclusive",
    "ListsByFolder",
    "ListsOnePage",
    "TakesPrefixForFolder",
    "SharesOneCursor",
    "UnquotesNames",
    "NormalisesNames",
]


def beside(reader: type[MemoryStore]) -> type[MemoryContract]:
    """The suite of a reader in memory, written to by another store on the same place."""

    @contextmanager
    def make(self: MemoryContract, place: Path) -> Iterator[Store]:
        name = str(place).strip("/").replace("/", "-")
        with closing(Served(reader(name), MemoryStore(name), MemoryStore.names)) as store:
            yield store

    return type(f"Beside{reader.__name__}", (MemoryContract,), {"store_class": reader, "make": make})


@pytest.mark.parametrize("name", READING)
def test_the_side_door_hides_no_violation(name: str, tmp_path: Path) -> None:
    rule, attributes = VIOLATIONS[name]
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    assert not failures(beside(MemoryStore), rule, tmp_path / "good")
    assert failures(beside(attributes["store_class"]), rule, tmp_path / "bad")


@pytest.fixture(scope="module")
def _nginx(need: Callable[[str, object, str], None]) -> None:
    need("nginx", nginx_installed(), "not installed")


@pytest.mark.service
@pytest.mark.usefixtures("_nginx")
class TestNginx(HttpContract):
    """nginx, its indexes in JSON."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with nginx(tmp_path_factory.mktemp("nginx")) as cls.service:
            yield

    @deviation("STORE-2", NGINX_DOTS)
    def test_legal_keys_round_trip(self, store: Store) -> None: ...

    @deviation("STORE-24", NGINX_DOTS)
    def test_hidden_names_are_never_listed(self, store: Store) -> None: ...

    @deviation("STORE-21", SECONDS)
    def test_stamps_change_with_the_content(self, store: Store) -> None: ...

    @deviation("STORE-14", f"nginx {NO_SUMS}")
    def test_sums_are_those_of_the_bytes(self, store: Store) -> None: ...


@pytest.mark.service
class TestExact(HttpContract):
    """A server that does everything that the store can use: no deviation."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with python_server(tmp_path_factory.mktemp("exact"), exact=True) as cls.service:
            yield


@pytest.mark.service
@pytest.mark.slow
class TestPython(HttpContract):
    """`python -m http.server`: no ranges, no ETags, HTML indexes without sizes."""

    names = Names(part_bytes=255, key_bytes=2000, utf8=True)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with python_server(tmp_path_factory.mktemp("python")) as cls.service:
            yield

    @deviation("STORE-21", SECONDS)
    def test_stamps_change_with_the_content(self, store: Store) -> None: ...

    @deviation("STORE-14", f"it {NO_SUMS}")
    def test_sums_are_those_of_the_bytes(self, store: Store) -> None: ...
