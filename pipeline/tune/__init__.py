"""A search over a recipe's settings with Ray Tune. The home of `ray.tune`.

1. `plan.py` settles before the start what trials are compared by, and makes every index that they need.
2. `searchers.py` says which trial is next, `schedulers.py` which ones go on: Tune's schedulers, told anew from the
   folder when a search goes on.
3. `population.py` is population based training: trials meet at stops, and the worst go on as copies of the best.
4. `trial.py` runs in the trial's process: the training loop of every other run, packs read in the process itself. Its
   folder holds journal and checkpoints; each evaluation is reported to Tune.
5. `run.py` is the driver: the clock, Ctrl-C; it hears of evaluations and ends.
6. The folder (`folder.py`) is the truth. Of Tune nothing is kept: each start is a new Tuner over the trials
   that have not ended.
"""
