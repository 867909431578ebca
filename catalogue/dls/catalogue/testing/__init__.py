"""The conformance suite of catalogues: rules of `specs/catalogue.md`, for any implementation."""
