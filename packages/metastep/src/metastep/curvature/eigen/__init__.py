"""Eigenpairs of operators, one method per file."""
