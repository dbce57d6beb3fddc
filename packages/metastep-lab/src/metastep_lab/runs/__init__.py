"""Run directories: what a run leaves behind, and how it is carried out, read and resumed."""
