-- Which domains are the sparsest, and how unequally are their items bought?
SELECT domain, users, items, interactions, sparsity, interactions / items AS interactions_per_item, gini
FROM domains
ORDER BY sparsity DESC, domain
