"""The trainer: from data and settings to a checkpoint, for every model of the registry."""
