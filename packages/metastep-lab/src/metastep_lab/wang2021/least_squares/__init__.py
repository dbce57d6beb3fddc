"""The experiment `least-squares`."""
