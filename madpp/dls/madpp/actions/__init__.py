"""The actions that come with dls: one verb each."""

from __future__ import annotations

BUILT_IN = {
    "register": "dls.madpp.actions.register:Register",
    "stage-in": "dls.madpp.actions.stage_in:StageIn",
    "stage-out": "dls.madpp.actions.stage_out:StageOut",
    "pack": "dls.madpp.actions.pack:Pack",
    "verify": "dls.madpp.actions.verify:Verify",
    "compute": "dls.madpp.actions.compute:Compute",
    "release": "dls.madpp.actions.release:Release",
    "site": "dls.madpp.actions.site:Site",
    "wait-for": "dls.madpp.actions.wait_for:WaitFor",
    "withdraw": "dls.madpp.actions.withdraw:Withdraw",
    "restore": "dls.madpp.actions.withdraw:Restore",
}
"""Every verb, and where it is; imported on use."""
