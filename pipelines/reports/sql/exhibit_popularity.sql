-- How unequally purchases are distributed over the items of the only domain in this catalogue.
SELECT interactions, items_at_least, share_of_items, share_of_interactions
FROM popularity_distribution
ORDER BY interactions DESC
