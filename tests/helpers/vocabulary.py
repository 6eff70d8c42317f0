"""The words that the tiny backbones know."""

from __future__ import annotations

WORDS = """
a the card money lost my i want to where is account close open good bad not very wait help please
transfer failed fee new address bank laptop screen network slow fast tea rain sun
""".split()
