"""Compiled loops for a CPU, where torch has no operator for what a packed batch needs.

Nothing is compiled, and numba not imported, before one of the modules is.
"""

WIDTH = 16
"""Float32 numbers that they compute at once: those of the widest vectors a processor has."""
