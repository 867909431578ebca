"""Fuse owns trees: many files seen as one read-only tree, packed in one image, or mounted."""
