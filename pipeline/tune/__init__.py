"""A search over a recipe's settings with Ray Tune. The home of `ray.tune`; `README.md` beside this says how."""
