"""Bernacchia (2021), Meta-learning with negative learning rates."""
