"""Queries to the feature store: features by id, and the nearest items to a text, a picture or an item."""
