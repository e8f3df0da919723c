"""The model arm: from a `Batch` to the states that tasks read. PyTorch only; it never sees Ray nor a modality's name.

1. `embedding` turns the tokens of a field into vectors: a table or a projection, convolutions where the recipe says so,
   position by grid cell, and which field it is.
2. `fusions` decide who sees whom; `fusion` is what they share. Tokens are ordered by sample, and inside a sample by
   field, so "within a field" and "within a sample" are both runs of neighbouring tokens: a fusion is a choice of
   `attention.Segments` per layer, or a combination of one vector a field.
3. `transformer` has the layers and `attention` their kernel: packed tokens, no masks, no padding outside the CPU kernel
   (`buckets` for one sequence, `cross` for two).
4. `network` joins them and says what it found: one state a sample, one a field.

A missing field is zero tokens: nothing here asks whether something is missing.
"""
