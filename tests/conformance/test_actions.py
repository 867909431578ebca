"""Every action that we ship, against the rules of specs/action.md."""

import pytest

from dls.madpp.testing import ours


@pytest.fixture(autouse=True)
def _every_point(request: pytest.FixtureRequest, faults_full: bool) -> None:
    request.instance.points = 0 if faults_full else 6


class TestRegister(ours.RegisterContract):
    pass


class TestRegisterImage(ours.RegisterImageContract):
    pass


class TestStageInFromImage(ours.StageInFromImageContract):
    pass


class TestStageIn(ours.StageInContract):
    pass


class TestStageInAddress(ours.StageInAddressContract):
    pass


class TestStageInMemory(ours.StageInMemoryContract):
    pass


class TestStageOut(ours.StageOutContract):
    pass


class TestStageOutDataset(ours.StageOutDatasetContract):
    pass


class TestPack(ours.PackContract):
    pass


class TestPackSpooled(ours.PackSpooledContract):
    pass


class TestPackFolder(ours.PackFolderContract):
    pass


class TestPackImage(ours.PackImageContract):
    pass


class TestStageInAsImage(ours.StageInAsImageContract):
    pass


class TestStageInImageMemory(ours.StageInImageMemoryContract):
    pass


class TestStageInImageCopy(ours.StageInImageCopyContract):
    pass


class TestReleaseImage(ours.ReleaseImageContract):
    pass


class TestVerify(ours.VerifyContract):
    pass


class TestCompute(ours.ComputeContract):
    pass


class TestComputeOnce(ours.ComputeOnceContract):
    pass


class TestRelease(ours.ReleaseContract):
    pass


class TestReleaseAt(ours.ReleaseAtContract):
    pass


class TestSite(ours.SiteContract):
    pass


class TestWaitFor(ours.WaitForContract):
    pass


class TestWithdraw(ours.WithdrawContract):
    pass


class TestRestore(ours.RestoreContract):
    pass
