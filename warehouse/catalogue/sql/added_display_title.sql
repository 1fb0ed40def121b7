-- What a person is shown of an item: never empty.
CASE WHEN title <> '' THEN title WHEN brand <> '' THEN brand || ' ' || item_id ELSE item_id END AS display_title,
