"""The experiment `hessian-two-layer`."""
