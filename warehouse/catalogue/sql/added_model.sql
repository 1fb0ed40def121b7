-- Of a whole file, as its manifest says.
(MAP {$models})[parquet_file] AS model,
