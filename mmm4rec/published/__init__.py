"""The published implementation's files: its checkpoints, its processed folders, and tensors that it has computed."""
