"""What follows a training step by step, one callback a file."""
