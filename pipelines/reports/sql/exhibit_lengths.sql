-- The sequence lengths of the only domain in this catalogue.
SELECT length, users, share_at_most
FROM length_distribution
ORDER BY length
