"""The experiment `data-attribution`."""
