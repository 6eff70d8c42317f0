"""Timings anyone can repeat: ratios of medians, every system measured side by side in one run.

Rows are seeded, so everyone who runs a bench measures the same ones, and every system gets the same
rows. Systems take turns, so that a machine whose speed drifts slows all of them alike.
"""
