"""What is made of a trained model and of data: evaluations, predictions, figures, tables and pages.

1. `predictor` is an exported model that reads raw rows; `bulk` runs it over whole shards.
2. `evaluate` measures a network over a split, for every subset of its fields.
3. `figures` is the home of matplotlib; `run_figures` and `search_figures` draw with it, `mistakes` lists worst errors.
4. `inspection` is the page of what data holds.
"""
