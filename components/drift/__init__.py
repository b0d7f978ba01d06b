"""The drift step."""
