"""document: plans as people write them: YAML text to `Plan` and back, with every fault at its place."""
