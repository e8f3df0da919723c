"""The library of Interlace: recipe, data arm (Ray Data, no torch), model arm (PyTorch, no Ray), training, tracking."""
