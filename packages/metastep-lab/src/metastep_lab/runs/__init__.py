"""Run directories: carrying out a run, and reading and resuming it."""
