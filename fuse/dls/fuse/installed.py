"""Whether the libraries that images need, an extra, are installed."""

from __future__ import annotations

from dls.logistics.errors import Unsupported


def check() -> None:
    """Unsupported `not-installed` where they are not, with what to install."""
    try:
        import dls.fuse.codec  # noqa: F401 - whether it can be imported is the question
    except ImportError as exc:
        raise Unsupported(
            f"images need {exc.name}, which is not installed", code="not-installed", remedy="pip install 'dls[images]'"
        ) from exc
