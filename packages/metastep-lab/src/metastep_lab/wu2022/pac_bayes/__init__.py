"""The experiment `pac-bayes`."""
