"""Benchmarks: ``python -m benchmarks.NAME [--quick] [--json]``. Each compares runs on one machine and shows ratios."""
