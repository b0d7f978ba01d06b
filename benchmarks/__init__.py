"""Each measures us and a baseline side by side in one run and prints ratios."""
