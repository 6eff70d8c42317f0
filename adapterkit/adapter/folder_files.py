"""The files of an adapter folder: what comes from elsewhere may have no others."""

from __future__ import annotations

import re

from .card import CARD
from .checksums import SIGNATURE, SUMS
from .peft_format import CONFIG
from .weights import MEMBERS, WEIGHTS

REQUIRED_FILES = (CONFIG, WEIGHTS)
"""The files of every adapter folder; that of adapterkit has a card as well, that of PEFT none."""

ALLOWED_FILES = re.compile(
    "|".join(map(re.escape, (*REQUIRED_FILES, CARD, SUMS, SIGNATURE)))
    + rf"|{MEMBERS}/[1-9][0-9]?\.safetensors"
    + r"|README\.md|learning_curve\.png|report/[\w.-]{1,80}"
)
