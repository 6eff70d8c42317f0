"""Metrics, a file for each kind of prediction; `metric.metric_kinds()` finds them by being here."""
