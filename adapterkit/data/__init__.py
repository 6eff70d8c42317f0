"""Rows of data sets: readers, Hugging Face data sets, splits, synonyms."""
