"""The evaluation of models: the ranks of the labels among all items, metrics of these ranks, and recommendations.

The tables of a report are in `mmm4rec.reports`.
"""
