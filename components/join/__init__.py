"""The join step."""
