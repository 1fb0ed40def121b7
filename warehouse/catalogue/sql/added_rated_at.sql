-- The time as a TIMESTAMP, in addition to the Unix seconds.
make_timestamp(time * 1000000) AS rated_at,
