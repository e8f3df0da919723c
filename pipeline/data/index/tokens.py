"""Tokens of the rows of a manifest."""

import numpy as np
from numpy.typing import NDArray

from interlace.data.index.manifest import Manifest


def num_tokens(manifest: Manifest) -> NDArray[np.int32]:
    """Int32 `[N]`: tokens of each row of a split over all fields; 0 for rows that can't be used."""
    groups = (manifest.rows(number).num_tokens for number in range(len(manifest.groups)))
    return np.concatenate([np.zeros(0, np.int32), *groups])
