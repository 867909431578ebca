"""Conformance suites, faults and generators, shipped so that others can prove their own stores."""
