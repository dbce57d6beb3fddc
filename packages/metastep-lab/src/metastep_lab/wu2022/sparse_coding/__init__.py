"""The experiment `sparse-coding`."""
