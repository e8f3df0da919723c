"""Cells of grids: where the tokens of a picture or a table stand."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from interlace.contract.batch import move
from interlace.model.attention import Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Where tokens lie in their values' grids.

    Args:
        row_T, column_T: of each row of the sequence, int64; 0 for slack.
        grids_S2: rows and columns of each sample's grid, int64, on the CPU; zeros where missing.
        segments: one segment a sample.
    """

    row_T: Tensor
    column_T: Tensor
    grids_S2: Tensor
    segments: Segments


def find_cells(grids_S2: Tensor, segments: Segments) -> Cells:
    """The grid cell of every token; tokens are row-major in their grid. Grids lie on the CPU."""
    width_T = move(pad(grids_S2[:, 1], (0, 1), value=1), segments.device)[segments.owner_T]
    offset_T = segments.offset_T
    return Cells(row_T=offset_T // width_T, column_T=offset_T % width_T, grids_S2=grids_S2, segments=segments)
