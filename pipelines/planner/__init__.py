"""How Dagster comes to build what is stale: steps, the plan over them, runs of it, and what starts runs by itself."""
