"""Preparing a data set: several sources joined by key into shards of one form. Torch-free.

1. `plan` reads the footers of all sources, checks that they fit together, and cuts the work into units.
2. `scatter` sends the rows of each source to buckets, by the hash of their key.
3. `join` joins one bucket at a time and decides the side of each row.
4. `shards` cuts the joined rows of each side into Parquet files of one size.
5. `job` runs these over a work folder (`work`), goes on after a kill, and says at the end what was made.
   `result` is what it made; `content` gives digests and sizes of values.
"""

from interlace.data.prepare.job import Mapper, Progress, prepare
from interlace.data.prepare.plan import Plan, make_plan
from interlace.data.prepare.result import Prepared, finished, out_folder

__all__ = ["Mapper", "Plan", "Prepared", "Progress", "finished", "make_plan", "out_folder", "prepare"]
