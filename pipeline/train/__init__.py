"""Training: the loop (PyTorch only), and the Ray shell around it. `README.md` beside this says how."""
