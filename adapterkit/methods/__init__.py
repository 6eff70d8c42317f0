"""One adapter method a file; `method.methods()` finds them by being here."""
