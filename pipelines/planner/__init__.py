"""Planning: steps, the plan of the stale steps, and everything that is derived from a step.

    step          `@step`, which declares the inputs of an artifact and its build; `all_steps`
    asset         the Dagster asset of a step: builds it, checks it and shows it in the UI
    plan          the stale steps, in stages; one Dagster run builds one stage
    code_version  the hash of the code that a step runs
    blocking      the checks that a step's tables must pass before they are published
    columns       column lineage
    openlineage   events for OpenLineage
    event_log     whether Dagster's event log agrees with the store

`pipelines.running` runs a plan.
"""
