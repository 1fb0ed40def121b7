"""The trainer: it makes a checkpoint from data and settings, for every model in the registry."""
