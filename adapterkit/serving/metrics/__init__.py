"""What a server counts, for Prometheus and for its page."""
