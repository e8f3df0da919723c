"""Data pipelines side by side over the same bytes, each in an environment of its own. See `__main__`."""
