"""Item pictures: downloaded or read, checked, and stored as original bytes in WebDataset shards. No torch here."""
