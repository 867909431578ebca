"""Trees in files that others wrote: SquashFS, tar, zip, rar, ext; one module a format, and our index on top."""
