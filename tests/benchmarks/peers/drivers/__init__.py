"""A script for each peer: how its documents say to read, decode, batch and go on."""
