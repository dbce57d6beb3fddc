"""Randomised estimates of traces, diagonals, determinants and spectral densities."""
