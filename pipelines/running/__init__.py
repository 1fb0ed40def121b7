"""What runs a plan, and what starts runs by itself.

definitions  all that Dagster knows of a data folder
runs         the stages of a plan, through Dagster in this process
jobs         what the UI lists to be started by hand
in_process   a run in this process, as one of a job
occasions    why something is built by itself, and which runs of it can begin
automation   sensors and schedules: what Dagster's daemon does by itself
launcher     Dagster's launcher, which also knows whether the process of a run is alive
"""
