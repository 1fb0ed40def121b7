"""Recommenders to measure the model against, evaluated by the same ranking."""
