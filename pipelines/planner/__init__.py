"""Planning: steps, the plan of the stale steps, and everything that is derived from a step.

    step          the inputs of an artifact, and its build; `all_steps`
    asset         `@step`, which declares a step and makes it a Dagster asset
    plan          the stale steps, in stages; one Dagster run builds one stage
    code_version  the hash of the code that a step runs
    blocking      the checks that a step's tables must pass before they are published
    columns       column lineage
    openlineage   events for OpenLineage
    event_log     whether Dagster's event log agrees with the store

`pipelines.running` runs a plan.
"""
