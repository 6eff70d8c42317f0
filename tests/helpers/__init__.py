"""What several test files share, one noun a file."""
