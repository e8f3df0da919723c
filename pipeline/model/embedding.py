"""From the tokens of a field to vectors: `FieldBatch` -> `x_ND`, float32.

Content (a table for ids, a projection for patches, or the `cnn` stem), plus the place of the token in its value's grid,
plus which field it is. Pixels (uint8) are brought to -1..1 here, on the device.
"""

# N tokens of the field, S samples, D width, P numbers of a patch, B pictures of one grid shape

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.batch import FieldBatch
from pipeline.model.attention import Segments
from pipeline.recipe import AnyField
from pipeline.sample import FieldSpec


class FieldEmbedding(nn.Module):
    """Everything before a field's Transformer layers.

    Args:
        spec: the shape of the field's tokens.
        settings: the field's settings; only `stem` is read.
        dim: width of the vectors.
    """

    def __init__(self, spec: FieldSpec, settings: AnyField, dim: int) -> None:
        super().__init__()
        convolve = settings.stem == "cnn"
        self.content: nn.Module
        if spec.kind == "ids":
            self.content = nn.Embedding(spec.vocab_size, dim)
        elif spec.channels and convolve:
            self.content = PixelStem(spec, dim)
        else:
            self.content = PatchProjection(spec, dim)
        self.stem = SequenceStem(dim) if convolve and not spec.channels else None
        self.position = GridPosition(spec.max_grid, dim)
        self.field_D = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: FieldBatch, segments: Segments) -> Tensor:
        """Vectors of the tokens, float32 `[N, D]`; `segments` are the samples."""
        given = (tokens.values, tokens.grids) if isinstance(self.content, PixelStem) else (tokens.values,)
        x_ND = self.content(*given).float() + self.position(tokens.grids, segments) + self.field_D
        out_ND: Tensor = x_ND if self.stem is None else self.stem(x_ND, segments)
        return out_ND


class GridPosition(nn.Module):
    """Learned tables for the row and the column of a token; a side of length 1 has none."""

    def __init__(self, max_grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        rows, columns = max_grid
        self.rows = nn.Embedding(rows, dim) if rows > 1 else None
        self.columns = nn.Embedding(columns, dim) if columns > 1 else None

    def forward(self, grids_S2: Tensor, segments: Segments) -> Tensor:
        """Sum of both tables at each token, `[N, D]` (a plain 0 for a field of single tokens)."""
        width_N = grids_S2[:, 1][segments.owner_T]
        place = grids_S2.new_zeros((), dtype=torch.float32)
        if self.rows is not None:
            place = place + self.rows(segments.offset_T // width_N)
        if self.columns is not None:
            place = place + self.columns(segments.offset_T % width_N)
        return place


def scale_pixels(values: Tensor) -> Tensor:
    """uint8 pixels 0..255 as float32 in -1..1; other patches as they are, in float32."""
    return values.float().mul_(1 / 127.5).sub_(1) if values.dtype == torch.uint8 else values.float()


class PatchProjection(nn.Module):
    """A linear map of each patch."""

    def __init__(self, spec: FieldSpec, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(spec.patch_dim, dim)

    def forward(self, values_NP: Tensor) -> Tensor:
        """`[N, P]` -> `[N, D]`."""
        out_ND: Tensor = self.project(scale_pixels(values_NP))
        return out_ND


def unfold(patches_NP: Tensor, grid: tuple[int, int], channels: int) -> Tensor:
    """Patches of pictures with one grid shape as pixels `[B, height, width, channel]`; `fold` is its inverse."""
    rows, columns = grid
    side = math.isqrt(patches_NP.shape[1] // channels)
    cells = patches_NP.view(-1, rows, columns, side, side, channels)
    return cells.transpose(2, 3).reshape(-1, rows * side, columns * side, channels)


def fold(pixels: Tensor, side: int) -> Tensor:
    """Pixels `[B, height, width, channel]` as square patches in row-major order, `[N, P]`."""
    pictures, height, width, channels = pixels.shape
    cells = pixels.view(pictures, height // side, side, width // side, side, channels).transpose(2, 3)
    return cells.reshape(-1, side * side * channels)


class PixelStem(nn.Module):
    """Convolutions over the picture that the patches came from (Xiao et al. 2021, "Early convolutions").

    One 3 x 3 convolution of stride 2, LayerNorm over channels and GELU for each halving from pixels to tokens, then a
    linear map: one cell is left for each patch. LayerNorm, since it doesn't mix places: pictures stay independent.
    Memory is channels-last, where torch's CPU convolutions are 3 times as fast.

    Args:
        spec: a field of square pixel patches, side a power of two.
        dim: width of the output; channels grow towards it in equal steps.
    """

    def __init__(self, spec: FieldSpec, dim: int) -> None:
        super().__init__()
        self.channels = spec.channels
        steps = math.isqrt(spec.patch_dim // spec.channels).bit_length() - 1
        widths = [spec.channels, *(max(8, dim * i // (steps + 1) // 8 * 8) for i in range(1, steps + 1))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for i, o in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(o) for o in widths[1:])
        self.project = nn.Linear(widths[-1], dim)

    def forward(self, values_NP: Tensor, grids_S2: Tensor) -> Tensor:
        """`[N, P]` patches, `[S, 2]` grids -> `[N, D]`. Pictures of one grid shape are convolved together."""
        shapes = grids_S2.tolist()
        groups = sorted({(r, c) for r, c in shapes if r}) or [(1, 1)]
        if len(groups) == 1:
            return self._convolve(values_NP, groups[0])
        group_of = torch.tensor([groups.index((r, c)) if r else 0 for r, c in shapes], device=values_NP.device)
        order_N = group_of.repeat_interleave(grids_S2.prod(1)).argsort(stable=True)
        parts = values_NP[order_N].split([r * c * shapes.count([r, c]) for r, c in groups])
        out_ND = torch.cat([self._convolve(part, group) for part, group in zip(parts, groups, strict=True)])
        return out_ND.index_select(0, order_N.argsort())

    def _convolve(self, values_NP: Tensor, grid: tuple[int, int]) -> Tensor:
        x = scale_pixels(unfold(values_NP, grid, self.channels))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            x = nn.functional.gelu(norm(x))
        out_ND: Tensor = self.project(x.reshape(-1, x.shape[3]))
        return out_ND


class SequenceStem(nn.Module):
    """Two residual convolutions over three neighbouring tokens, within the sample, on packed tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Linear(3 * dim, dim) for _ in range(2))

    def forward(self, x_ND: Tensor, segments: Segments) -> Tensor:
        """`[N, D]` -> `[N, D]`; zeros stand where a token has no neighbour in its sample."""
        first_N1 = (segments.offset_T == 0).unsqueeze(1)
        last_N1 = (segments.offset_T + 1 == segments.lengths_N[segments.owner_T]).unsqueeze(1)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            h_ND = norm(x_ND)
            before = h_ND.roll(1, 0).masked_fill(first_N1, 0)
            after = h_ND.roll(-1, 0).masked_fill(last_N1, 0)
            x_ND = x_ND + nn.functional.gelu(convolution(torch.cat([before, h_ND, after], dim=1))).float()
        return x_ND
