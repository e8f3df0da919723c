"""The model arm: from a `Batch` to the states that tasks read. PyTorch only; `README.md` beside this says how."""
