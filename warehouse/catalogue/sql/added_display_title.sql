-- The title that is shown to people: never empty.
CASE WHEN title <> '' THEN title WHEN brand <> '' THEN brand || ' ' || item_id ELSE item_id END AS display_title,
