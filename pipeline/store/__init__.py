"""Where a run lives: its folder, and what several processes write there without harming each other.

1. `places` says where in the storage folder everything lies.
2. `journal` is the append-only file of metrics, the first and only truth about them.
3. `lock` lets one process at a time write a run or a data set.
4. `system` samples what a node has at work, into a journal of its own.
5. `hashes` tells files apart by their content.
"""
