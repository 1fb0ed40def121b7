"""The data folder: its settings, its raw files, its artifact store and its cache."""
