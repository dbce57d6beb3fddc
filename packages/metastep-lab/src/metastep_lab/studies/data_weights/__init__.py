"""The experiment `data-weights`: a rating network for data, tuned through training."""
