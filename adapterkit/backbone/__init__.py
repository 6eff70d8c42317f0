"""The frozen model: checkpoint, families, tokenizer, packing and hooks."""
