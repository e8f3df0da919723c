"""Tokens of the rows of a manifest."""

import numpy as np
from numpy.typing import NDArray

from interlace.data.index.manifest import Manifest
from interlace.data.index.records import RecordCodec
from interlace.modalities.base import Modality


def num_tokens(manifest: Manifest, codec: RecordCodec) -> NDArray[np.int32]:
    """Int32 `[N]`: tokens of each row over all fields; 0 for rows that can't be used."""
    total = np.zeros(manifest.num_rows, np.int32)
    for name, (modality, _) in codec.fields.items():
        total += field_tokens(manifest, name, modality)
    total[manifest.unusable] = 0
    return total


def field_tokens(manifest: Manifest, name: str, modality: Modality) -> NDArray[np.int32]:
    """Int32 `[N]`: tokens of one field; each distinct extent is asked once."""
    extents, inverse = np.unique(manifest.extents[name], axis=0, return_inverse=True)
    counts = [0 if a < 0 else modality.num_tokens((a, b)) for a, b in extents.tolist()]
    return np.array(counts, np.int32)[inverse.reshape(-1)]
