"""The stores that come with dls: one module each."""
