"""Training: `loop` (PyTorch only), `checkpoint`, `optim`, `build`, and the Ray shell around them (`worker`, `run`)."""
