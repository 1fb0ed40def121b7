-- Vectors of one modality that are no zeros: the mask.
SELECT domain, $what AS what, count(*) AS items, count(*) FILTER (present) AS present
FROM $vectors
GROUP BY domain
