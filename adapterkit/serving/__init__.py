"""Multi-tenant serving over HTTP: adapters are loaded on demand and mixed in one batch."""
