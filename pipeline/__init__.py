"""What runs, in what order, and where."""
