"""Madpp owns intent: plans, their proofs, the actions that carry them out, and the runs."""
