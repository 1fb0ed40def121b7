"""The evaluation of models: the ranks of the labels among all items, and the tables computed from them."""
