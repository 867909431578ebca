"""Benches: one work, our way beside peers and a floor, in interleaved rounds."""
