"""A domain: reading it from Parquet, holding it in memory, and cutting examples from it."""
