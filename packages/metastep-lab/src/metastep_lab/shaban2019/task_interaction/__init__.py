"""The experiment `task-interaction`."""
