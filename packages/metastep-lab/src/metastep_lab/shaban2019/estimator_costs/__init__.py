"""The experiment `estimator-costs`."""
