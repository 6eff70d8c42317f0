"""The forward pass and what answers with it."""
