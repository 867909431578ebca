"""The catalogue owns the facts about bytes: datasets, versions, replicas, lineage, events."""
