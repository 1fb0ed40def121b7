-- How unequally the items of the one domain at hand are bought.
SELECT interactions, items_at_least, share_of_items, share_of_interactions
FROM popularity_distribution
ORDER BY interactions DESC
