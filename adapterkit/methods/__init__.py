"""Adapter methods, one a file; `base.methods()` finds every module of this package."""
