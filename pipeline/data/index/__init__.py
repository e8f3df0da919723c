"""The index: see `build`."""
