-- Times for people, beside their seconds.
list_transform(times, lambda seconds: make_timestamp(seconds * 1000000)) AS rated_at,
