"""The files of the published implementation: its checkpoints, its processed folders, and tensors that it computed."""
