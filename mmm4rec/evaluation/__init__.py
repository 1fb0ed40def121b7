"""How good a model is: the ranks of the labels among all items, and the tables made of them."""
