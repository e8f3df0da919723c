"""All rows of a manifest at once, for tests: the library reads them a row group at a time."""

import numpy as np
from numpy.typing import NDArray

from interlace.data.index.manifest import GroupRows, Manifest


def all_rows(manifest: Manifest) -> list[GroupRows]:
    """Every row group."""
    return [manifest.rows(number) for number in range(len(manifest.groups))]


def hashes(manifest: Manifest) -> NDArray[np.uint64]:
    """Uint64 `[N]`."""
    return np.concatenate([rows.hashes for rows in all_rows(manifest)])


def extents(manifest: Manifest, field: str) -> NDArray[np.int32]:
    """Int32 `[N, 2]` of a field."""
    return np.concatenate([rows.extents[field] for rows in all_rows(manifest)])


def tokens(manifest: Manifest, field: str) -> NDArray[np.int32]:
    """Int32 `[N]` of a field."""
    return np.concatenate([rows.tokens[field] for rows in all_rows(manifest)])


def usable(manifest: Manifest) -> NDArray[np.bool_]:
    """Bool `[N]`."""
    return np.concatenate([rows.usable for rows in all_rows(manifest)])


def present(manifest: Manifest, field: str) -> NDArray[np.bool_]:
    """Bool `[N]`, where a field is there."""
    return np.concatenate([rows.present(field) for rows in all_rows(manifest)])


def num_tokens(manifest: Manifest) -> NDArray[np.int32]:
    """Int32 `[N]`, over all fields; 0 for rows that can't be used."""
    return np.concatenate([rows.num_tokens for rows in all_rows(manifest)])
