-- How long the sequences of the one domain at hand are.
SELECT length, users, share_at_most
FROM length_distribution
ORDER BY length
