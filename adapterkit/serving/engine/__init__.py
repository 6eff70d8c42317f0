"""Adapters in memory, and the queues in which rows of many tenants are computed."""
