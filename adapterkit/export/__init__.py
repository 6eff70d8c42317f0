"""Adapters as files of other programs, which answer as they do or are not written."""
