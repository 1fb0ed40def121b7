"""What is to be built: steps, the plan of those that are stale, and what follows from a step.

    step          what an artifact is made of, and its building; `all_steps`
    asset         `@step`, which declares a step and gives it its form as a Dagster asset
    plan          which steps are stale, in stages that one Dagster run builds each
    code_version  the hash of the code that a step runs
    blocking      what must hold of a step's tables before they are published
    columns       which columns a column was made from
    openlineage   events for OpenLineage
    event_log     whether Dagster's event log says what the store says

What runs a plan is `pipelines.running`.
"""
