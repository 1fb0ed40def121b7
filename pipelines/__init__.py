"""Orchestration: settings, Dagster assets and checks, the command line. Computations are in the other packages."""
