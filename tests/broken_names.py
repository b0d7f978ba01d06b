"""A plug-in for people's names that cannot be imported."""

raise RuntimeError("not today")
