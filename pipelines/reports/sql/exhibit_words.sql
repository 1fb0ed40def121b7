-- Items by the number of words of their text, in at most fifty classes of equal width.
WITH texts AS (
    SELECT length(string_split(text_clean, ' ')) AS words
    FROM features.item_text
    WHERE present
),
widths AS (
    SELECT greatest(ceil(max(words) / 50), 1)::INTEGER AS width
    FROM texts
)
SELECT words // width * width AS words, width, count(*) AS items
FROM texts, widths
GROUP BY ALL
ORDER BY ALL
