"""The experiment `maml-wishart`."""
