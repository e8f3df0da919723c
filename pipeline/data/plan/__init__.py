"""The plan: which rows make up which pack, at which position of the run. A pure function; `mix` weighs sources."""
