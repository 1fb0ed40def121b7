-- Ratings month by month.
SELECT date_trunc('month', make_timestamp(time * 1000000))::DATE AS month, count(*) AS ratings, avg(rating) AS mean_stars
FROM core.interactions
GROUP BY ALL
ORDER BY month
