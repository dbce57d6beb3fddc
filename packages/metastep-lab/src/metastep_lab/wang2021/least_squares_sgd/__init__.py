"""The experiment `least-squares-sgd`."""
