"""The experiment `one-shot`."""
