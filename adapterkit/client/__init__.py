"""Asks a server over HTTP; imports no torch."""
