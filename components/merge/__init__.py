"""The merge step."""
