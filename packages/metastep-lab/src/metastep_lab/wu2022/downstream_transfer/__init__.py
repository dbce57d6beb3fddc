"""The experiment `downstream-transfer`."""
