"""Transfers: prove, copy, publish; killed anywhere and run again, they end the same."""
