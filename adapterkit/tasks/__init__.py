"""One task a file; `base.tasks()` finds them by being here."""
