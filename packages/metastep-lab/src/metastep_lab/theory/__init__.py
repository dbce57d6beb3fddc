"""Closed-form results, one file each; independent of the rest of the package."""
