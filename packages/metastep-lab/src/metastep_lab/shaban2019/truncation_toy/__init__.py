"""The experiment `truncation-toy`."""
