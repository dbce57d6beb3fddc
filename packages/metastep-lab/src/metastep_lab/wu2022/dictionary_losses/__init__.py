"""The experiment `dictionary-losses`."""
