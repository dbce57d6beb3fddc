"""Shaban, Cheng, Hatch and Boots (2019), Truncated back-propagation for bilevel optimization."""
