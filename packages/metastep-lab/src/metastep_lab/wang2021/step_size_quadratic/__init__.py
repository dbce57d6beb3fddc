"""The experiment `step-size-quadratic`."""
