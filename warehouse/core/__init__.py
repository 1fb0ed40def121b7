"""Layer core: cleaned items, distinct interactions, and the sequences that models learn from."""
