"""site: make a site known; nothing where it is, an error where it is another."""

from __future__ import annotations

from typing import Any, ClassVar

from dls.logistics import duration, url
from dls.logistics.errors import DlsError, Exists, NotFound
from dls.logistics.frozen import frozen
from dls.logistics.registry import schemes
from dls.logistics.site import Storage
from dls.madpp.action import AT_ONCE, Context, Facts, bounded, checked
from dls.madpp.source import address, shown


@frozen
class Site:
    """`dls site add NAME URL`; what is left out is the default of a new site, and any of a known one."""

    site: str
    url: str
    capacity: str = ""
    inodes: int = -1
    tier: str = ""
    lifetime: str = ""
    block: int = 0
    name: ClassVar[str] = "site"

    def check(self, context: Context) -> list[DlsError]:
        """Are the words legal, and does no other site have the name?"""
        return checked(
            lambda: self._limits(),
            lambda: self._address(context),
            lambda: self._known(context),
        )

    def _address(self, context: Context) -> str:
        at = address(context, self.url)
        if at.scheme not in schemes():
            context.open_store(str(at))  # says what there is
        return str(at)

    def _limits(self) -> dict[str, Any]:
        """What is asked of the storage, by its fields."""
        asked: dict[str, Any] = {}
        if self.capacity:
            asked["capacity_bytes"] = duration.read_size(self.capacity)
        if self.inodes >= 0:
            asked["capacity_inodes"] = self.inodes
        if self.tier:
            asked["tier"] = self.tier
        if self.lifetime:
            asked["lifetime_s"] = duration.read_duration(self.lifetime)
        if self.block:
            asked["block"] = self.block
        return asked

    def _known(self, context: Context) -> Storage | None:
        try:
            there = context.sites.get(self.site)
        except NotFound:
            return None
        wanted = {"url": str(url.parse(self._address(context))), **self._limits()}
        differ = [f"{k} is {getattr(there, k)}, not {v}" for k, v in wanted.items() if getattr(there, k) != v]
        if differ:
            raise Exists(
                f"the site {self.site} is there and differs: {'; '.join(differ)}",
                code="site-differs",
                site=there.id,
                remedy="write what is there, or choose another name",
            )
        return there

    def preview(self, context: Context) -> Facts:
        """Whether it would be made."""
        at = shown(url.parse(self._address(context)))
        new = self._known(context) is None
        return bounded({"what": self.site, "new": new, "route": [at], "files": 0, "bytes": 0, "eta": AT_ONCE})

    def run(self, context: Context) -> Facts:
        """Make it where it is not."""
        there = self._known(context)
        made = there or context.sites.add_site(
            self.site, self._address(context), by=context.actor.name, **self._limits()
        )
        return bounded({"site": made.id, "url": made.url, "new": there is None})
