"""Helpers that several test files share, one noun per file."""
