"""HTTP without adapters: connections, TLS, strict bodies, errors as JSON."""
