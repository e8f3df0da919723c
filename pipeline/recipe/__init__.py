"""What decides a run: see `recipe`."""
