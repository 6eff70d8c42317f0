"""The routes, one protocol or subject per file."""
