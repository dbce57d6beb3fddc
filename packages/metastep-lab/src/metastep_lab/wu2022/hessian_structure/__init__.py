"""The experiment `hessian-structure`."""
