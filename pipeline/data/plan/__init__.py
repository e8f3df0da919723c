"""The plan: which rows make up which pack, at which position of the run. A pure function; `mix` weighs sources.

Equal packs: `count` finds windows and their numbers of packs from sums over row groups (`sizes`), by rules that are
certain of them (`bounds`). `deal` deals a window's rows into so many packs of equal work, `certain` as the rules would.
"""
