-- How many items have a vector of one modality, by its mask.
SELECT domain, $what AS what, count(*) AS items, count(*) FILTER (present) AS present
FROM $vectors
GROUP BY domain
