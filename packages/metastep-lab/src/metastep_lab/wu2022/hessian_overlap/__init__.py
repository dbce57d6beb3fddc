"""The experiment `hessian-overlap`."""
