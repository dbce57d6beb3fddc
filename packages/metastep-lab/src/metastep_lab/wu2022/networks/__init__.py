"""Trained networks that several experiments of the thesis look at: names, images, training."""
