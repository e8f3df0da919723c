"""Reading: a window of the plan becomes packs, in plan order.

1. `open` makes the reader of a split; `reader` reads, verifies, decodes, augments, encodes and joins.
2. `cache` keeps decoded values on disk, `cache_room` bounds it, `warm` fills it before several runs read.
"""
