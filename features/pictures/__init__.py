"""Item pictures: downloaded or read, checked, and kept as original bytes in WebDataset shards. No torch here."""
