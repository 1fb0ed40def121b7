-- Ratings by month.
SELECT date_trunc('month', rated_at)::DATE AS month, count(*) AS ratings, avg(rating) AS mean_stars
FROM core.interactions
GROUP BY ALL
ORDER BY month
