-- A time for people, beside its seconds.
make_timestamp(time * 1000000) AS rated_at,
