"""The cli is the front door: it alone reads settings, builds the objects, and prints."""
