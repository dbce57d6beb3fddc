"""The problems on which the advisor is held against the truth."""
