"""Timings anyone can repeat: ratios of medians, every system measured side by side in one run."""
