"""Layer raw: the files of a category, fetched and read line by line into typed tables. Other lines are quarantined."""
