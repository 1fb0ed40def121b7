"""Layer core: clean items, distinct interactions, and the sequences that models learn from."""
