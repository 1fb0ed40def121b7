"""Comparison of models: the same data, budget and metrics, several seeds, and tests of the differences."""
