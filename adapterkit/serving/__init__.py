"""Multi-tenant serving: adapters brought in by need, mixed into batches, answered over HTTP."""
