"""What the feature store answers: features by id, and the nearest items to a text, a picture or an item."""
