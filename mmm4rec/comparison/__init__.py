"""Models side by side: the same data, budget and metrics, several seeds, with tests of the differences."""
