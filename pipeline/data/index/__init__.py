"""The index: what the data is, row by row, without the values.

1. `schema` checks that shards have the columns of the recipe, in types that its fields can use.
2. `fit` learns from the training rows what fields and targets need (`targets`: columns -> target arrays).
3. `measure` gives each record its hash and its extents; `records` says which columns make which field.
4. `build` runs both as jobs over row groups and keeps the `manifest` of each split, named by `identity`.
5. `tokens` counts the tokens of a manifest's rows.
"""
