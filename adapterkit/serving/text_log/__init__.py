"""The log of the texts of requests, as they are or masked."""
