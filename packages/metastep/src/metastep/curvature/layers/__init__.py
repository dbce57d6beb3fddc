"""Layers of a network: their inputs and outputs, their Hessians, and Kronecker factors."""
