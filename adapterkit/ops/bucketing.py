"""Sizes filled up to one of few, so that what is compiled or captured for a size is found again."""

from __future__ import annotations

WIDTH = 16
"""Float32 numbers that the compiled loops compute at once: those of the widest vectors a processor
has."""


def bucket_size(n: int) -> int:
    """n filled up to one of a few sizes: the next multiple of 16, and of an eighth to a sixteenth
    of larger numbers."""
    step = max(16, 1 << max(0, n.bit_length() - 4))
    return -(-n // step) * step


def bucket_power_of_two(n: int) -> int:
    """n filled up to a power of two of at least 16: for what costs nothing where it is empty."""
    return max(16, 1 << (n - 1).bit_length())


def bucket_for_onednn(tokens: int) -> int:
    """The next multiple of 16, and of a 32nd to a 64th of larger sizes.

    oneDNN makes a program for each size it meets and keeps a thousand of them, each of up to a
    megabyte: batches of every size would cost a gigabyte, and a millisecond a size and shape. All
    else that a batch allocates comes in few sizes too, and is found again.
    """
    step = max(16, 1 << max(0, tokens.bit_length() - 6))
    return -(-tokens // step) * step


def whole_vectors(keys: int) -> int:
    """Keys filled up to whole vectors of the processor, unless few are left over: torch's attention
    on a CPU takes the rest one by one, and 13 keys three times as long as 16."""
    rest = keys % WIDTH
    return keys if rest <= WIDTH // 4 else keys - rest + WIDTH
