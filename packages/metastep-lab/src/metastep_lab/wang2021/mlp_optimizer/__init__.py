"""The experiment `mlp-optimizer`."""
