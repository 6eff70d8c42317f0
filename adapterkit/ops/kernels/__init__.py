"""Compiled loops for a CPU, where torch has no operator for what a packed batch needs."""
