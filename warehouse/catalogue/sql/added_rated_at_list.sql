-- The times as TIMESTAMPs, in addition to the Unix seconds.
list_transform(times, lambda seconds: make_timestamp(seconds * 1000000)) AS rated_at,
