"""`metastep clean`: find the wrong labels of a file."""
