"""The experiment `step-size-guarantees`."""
