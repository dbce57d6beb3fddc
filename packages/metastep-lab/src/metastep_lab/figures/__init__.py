"""Figures in one style: drawn by matplotlib, and as Bokeh plots to zoom into."""
