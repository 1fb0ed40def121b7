"""Running a plan, and starting runs automatically.

definitions  Dagster's definitions of a data folder
runs         runs the stages of a plan through Dagster in this process
jobs         the jobs that people can start in the UI
on_ray       the steps on a Ray cluster, if the settings name one
in_process   a run in this process, shown as a run of a job
occasions    why something is built automatically, and which of its runs can start
automation   sensors and schedules: what Dagster's daemon does automatically
storage      Dagster's storage in SQLite, with an event log that opens its databases less often
launcher     Dagster's launcher, extended to check whether the process of a run is alive
"""
