"""Ranges of characters of scripts that put nothing between words, for regular expressions."""

from __future__ import annotations

HAN = "\u3400-\u9fff\uf900-\ufaff"
"""Chinese characters of Unicode's basic plane: each counts as a word."""

KANA = "\u3040-\u30ff"
"""Hiragana and Katakana."""

RARE_HAN = "\U00020000-\U0003ffff"
"""Chinese characters outside the basic plane."""

UNSPACED = f"\u0e00-\u0eff\u1780-\u17ff{KANA}{HAN}{RARE_HAN}"
"""Thai, Lao, Khmer, kana and Chinese characters."""
