"""Clients of a server over HTTP; they import no torch."""
