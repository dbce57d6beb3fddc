"""The experiment `hypercleaning`."""
