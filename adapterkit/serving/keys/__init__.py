"""API keys, their file, and the quotas of tenants."""
