"""Orchestration: settings, Dagster assets and checks, the command line. No arithmetic: that is in the other rooms."""
