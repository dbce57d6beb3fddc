"""The experiment `anchor-vectors`."""
