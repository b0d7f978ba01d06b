"""The split step."""
