"""madpp: decides what happens to data: plans, proofs, actions, runs."""
