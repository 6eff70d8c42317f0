"""One task a file; `task.tasks()` finds them by being here."""
