"""Studies of our own: advice and label noise."""
