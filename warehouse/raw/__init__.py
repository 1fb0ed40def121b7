"""Layer raw: the files of a category, fetched and read line by line into typed tables; the rest is quarantined."""
