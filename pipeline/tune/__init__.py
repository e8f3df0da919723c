"""A search over a recipe's settings with Ray Tune. The home of `ray.tune`.

1. `trial.py` runs in the trial's process: the training loop of every other run, packs read in the process itself. Its
   folder holds journal and checkpoints; each evaluation is reported to Tune.
2. `schedulers.py` decides which trials go on: Tune's schedulers, fed anew from the folder when a search goes on.
3. `run.py` is the driver: which trial is next, the clock, Ctrl-C; it hears of evaluations and ends.
4. The folder (`pipeline/sweep.py`) is the truth. Of Tune nothing is kept: each start is a new Tuner over the trials
   that have not ended.
"""

from pipeline.tune.run import Ending, Listener, SweepPlan, prepare_sweep, run_sweep

__all__ = ["Ending", "Listener", "SweepPlan", "prepare_sweep", "run_sweep"]
