"""Metrics, a file for each kind of prediction; `base.metric_kinds()` finds them by being here."""
