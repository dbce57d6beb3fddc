"""What data is worth: a rating network tuned through training."""
