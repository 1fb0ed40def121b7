"""Benchmarks: ``python -m benchmarks.NAME [--quick] [--json]``. Each compares in one run on one machine, as ratios."""
