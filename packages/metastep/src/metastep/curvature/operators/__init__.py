"""Curvature matrices as linear operators on pytrees."""
