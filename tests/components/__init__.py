"""Real components that tests, demo and bench start for themselves: one module each (start, ready check, stop)."""
