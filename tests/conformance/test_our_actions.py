"""The rules of our own actions, ACTION-14 and on."""

from dls.madpp.testing.bringing import BringingRules
from dls.madpp.testing.imaging import ImageRules
from dls.madpp.testing.keeping import KeepingRules
from dls.madpp.testing.making import MakingRules
from dls.madpp.testing.packing import PackRules
from dls.madpp.testing.staging import StageImageRules


class TestBringing(BringingRules):
    pass


class TestKeeping(KeepingRules):
    pass


class TestMaking(MakingRules):
    pass


class TestImages(ImageRules):
    pass


class TestPacking(PackRules):
    pass


class TestStagingImages(StageImageRules):
    pass
