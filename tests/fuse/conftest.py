"""What the tests of images share."""

from collections.abc import Iterator

import pytest

from dls.fuse import fast


@pytest.fixture(scope="module", params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Once with the compiled path of images, once without; for what is opened by this process and its children."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(fast, "_module", lambda: None)
        else:
            assert fast._module() is not None, "tests/setup installs fuse/accelerator"
        yield str(request.param)
