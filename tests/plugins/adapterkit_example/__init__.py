"""A package outside of adapterkit that adds one thing of each kind, one a file."""
