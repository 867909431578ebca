"""The version of dls: here, where the build and the program both read it (asking the installation takes 20 ms)."""

VERSION = "0.1.0"
