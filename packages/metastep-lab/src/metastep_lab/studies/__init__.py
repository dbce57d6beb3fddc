"""Studies of our own; a figure of a paper that is reproduced has a folder for its paper."""
