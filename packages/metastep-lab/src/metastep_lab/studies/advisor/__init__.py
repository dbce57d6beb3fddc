"""The experiment `advisor`."""
