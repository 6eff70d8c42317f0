"""Logits as transformers and PEFT compute them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXTS = ["where is my card", "a", "i want to close the account " * 4, "rain sun tea", "fast help"]


def bert_for(folder: Path, n_labels: int) -> Any:
    from transformers import BertForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(3)
    return BertForSequenceClassification.from_pretrained(folder, num_labels=n_labels).eval()


def peft_logits(model: Any, folder: Path, texts: list[str]) -> torch.Tensor:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        with torch.inference_mode():
            rows.append(model(**tokenizer(text, return_tensors="pt")).logits[0])
    return torch.stack(rows)
