"""Eigenpairs of operators: one method in each file."""
