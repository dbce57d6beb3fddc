"""`metastep clean`: which labels of a file are wrong."""
