"""Where a job runs: connecting to Ray and the arithmetic of its resources. Imports nothing of `pipeline`."""
