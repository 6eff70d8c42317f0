"""What happens to a request before its route."""
