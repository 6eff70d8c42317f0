"""Sizes rounded up to one of few, so that what is compiled or captured for a size is used again."""

from __future__ import annotations

WIDTH = 16
"""Float32 numbers that the compiled loops compute at once, as many as the widest vector register of
any processor holds."""


def bucket_size(n: int) -> int:
    """n rounded up to a multiple of 16; of larger numbers, by at most an eighth."""
    step = max(16, 1 << max(0, n.bit_length() - 4))
    return -(-n // step) * step


def bucket_power_of_two(n: int) -> int:
    """n rounded up to a power of two, at least 16: for tables whose empty entries cost nothing."""
    return max(16, 1 << (n - 1).bit_length())


def bucket_for_onednn(tokens: int) -> int:
    """A number of tokens rounded up to a multiple of 16; of larger numbers, by at most a 32nd.

    oneDNN compiles a program for each size and keeps a thousand of them, each of up to a megabyte.
    Batches of every size would cost a gigabyte, and a millisecond for each size and shape. With few
    sizes, the memory that a batch allocates is also found again.
    """
    step = max(16, 1 << max(0, tokens.bit_length() - 6))
    return -(-tokens // step) * step


def bucket_for_attention(keys: int) -> int:
    """A number of keys rounded up to whole vectors of the processor, unless few are left over.

    torch's attention on a CPU takes the keys after the last whole vector one by one: 13 keys take
    three times as long as 16.
    """
    rest = keys % WIDTH
    return keys if rest <= WIDTH // 4 else keys - rest + WIDTH
