"""What passes between the arms, and what everything may raise.

1. `sample` is the numpy side: tokens of one value, packs of many samples. `batch` is the same pack as torch tensors.
2. `detokenizer` turns ids back into text on either side.
3. `flops` is what a sample takes in a model, which the plan makes equal and the use of a device is measured by.
4. `charts` is what a task shows of its metrics, as plain data. `errors` is every error a user can cause.
"""
