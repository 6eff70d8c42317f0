"""One adapter method a file; `base.methods()` finds them by being here."""
