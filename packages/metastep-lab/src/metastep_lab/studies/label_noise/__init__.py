"""The experiment `label-noise`."""
