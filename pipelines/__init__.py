"""Orchestration: settings, Dagster assets and checks, the command line. Wiring; arithmetic is below."""
