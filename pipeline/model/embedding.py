"""From the tokens of a field to vectors: `FieldBatch` -> `x_TD`, float32, with as many rows as `Segments.num_rows`.

Content (a table for ids, a projection for patches, the `cnn` stem, or a pretrained model), plus the place of the token
in its value's grid, plus its time where the field is clocked, plus which field it is, then the stem over neighbouring
tokens. Pixels (uint8) are scaled here, on the device: to -1..1, or so that white or black is 0 (see `Zero`).
"""

# T rows of the field's sequence (N tokens, then slack), S samples, D width, P numbers of a patch, B pictures

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, max_pool2d, pad

from interlace.contract.batch import FieldBatch, move
from interlace.contract.sample import FieldSpec
from interlace.model.attention import Segments
from interlace.model.buckets import round_up
from interlace.model.cells import Cells, find_cells
from interlace.model.pretrained import Pretrained, PretrainedPixels, PretrainedTokens
from interlace.model.recurrent import RecurrentStem
from interlace.recipe.base import PretrainedEncoder
from interlace.recipe.fields import AnyField, ImageField

NUM_PERIODS = 24
"""Each 2.1 times the one before."""

Zero = Literal["grey", "white", "black"]
"""The colour of pixels that are 0 for the network.

Even paper is best 0: at 1 the stem gives it as much as ink, and the states of all pictures begin nearly alike (mean
cosine on Omniglot 0.97, against 0.88). Characters from the picture alone, 20 s of training: 1 % of 136 classes right,
and 61 % with paper at 0.
"""

BLANK: dict[Zero, int] = {"grey": 128, "white": 255, "black": 0}
"""The pixel (uint8) that is 0, or nearest to it."""

_LEVEL: dict[Zero, float] = {"grey": 1.0, "white": 2.0, "black": 0.0}


class FieldEmbedding(nn.Module):
    """Everything before a field's Transformer layers.

    Args:
        spec: the shape of the field's tokens.
        settings: the field's settings; `stem`, `zero`, `encoder`, `init` and `freeze` are read.
        dim: width of the vectors.
        maskable: whether a task masks tokens; a learned vector then stands for them (Devlin et al. 2019, BERT).
        id_scale: see `IdTable`.
    """

    def __init__(
        self, spec: FieldSpec, settings: AnyField, dim: int, *, maskable: bool = False, id_scale: float = 1.0
    ) -> None:
        super().__init__()
        convolve = settings.stem == "cnn"
        self.zero: Zero = settings.zero if isinstance(settings, ImageField) else "grey"
        self.content: IdTable | PatchProjection | PixelStem | Pretrained
        encoder = encoder_of(settings)
        if encoder is not None:
            self.content = (PretrainedTokens if spec.kind == "ids" else PretrainedPixels)(spec, encoder, dim)
        elif spec.kind == "ids":
            self.content = IdTable(spec, dim, id_scale)
        elif spec.channels and convolve:
            self.content = PixelStem(spec, dim, self.zero)
        else:
            self.content = PatchProjection(spec, dim, self.zero)
        self.stem: SequenceStem | RecurrentStem | None = None
        if settings.stem == "rnn":
            self.stem = RecurrentStem(dim)
        elif convolve and not spec.channels:
            self.stem = SequenceStem(dim)
        self.position = GridPosition((1, 1) if encoder else spec.max_grid, dim)  # a pretrained model has its own
        self.field_D = nn.Parameter(torch.zeros(dim))
        self.mask_D = nn.Parameter(torch.zeros(dim)) if maskable else None
        self.clock = TimeEmbedding(dim) if spec.clocked and stands_apart(settings) else None

    def forward(
        self, tokens: FieldBatch, segments: Segments, clock: "TimeEmbedding | None" = None, mask: Tensor | None = None
    ) -> Tensor:
        """Vectors of the tokens, float32 `[T, D]`.

        Args:
            tokens: of one field.
            segments: the samples.
            clock: shared by the clocked fields that have none of their own (`stands_apart`).
            mask: bool `[n]`, tokens of which only place and time are seen.
        """
        cells = find_cells(tokens.grids, segments)
        values = tokens.values if mask is None else _blank(tokens.values, mask, self.zero)
        content_TD = self.content(values, cells).float()
        if self.mask_D is not None and mask is not None:
            mask_T1 = pad(mask, (0, len(content_TD) - len(mask))).unsqueeze(1)
            content_TD = torch.where(mask_T1, self.mask_D, content_TD)
        x_TD = content_TD + self.position(cells) + self.field_D
        if tokens.times is not None:
            own = self.clock or clock
            assert own is not None
            x_TD = x_TD + own(tokens.times, segments.num_rows)
        out_TD: Tensor = x_TD if self.stem is None else self.stem(x_TD, segments)
        return out_TD


def encoder_of(settings: AnyField) -> PretrainedEncoder | None:
    """The pretrained encoder of a field, None where it has none or its modality takes none."""
    found: PretrainedEncoder | None = getattr(settings, "encoder", None)
    return found


def stands_apart(settings: AnyField) -> bool:
    """Whether a field has a clock of its own: two runs that two fields are started from have two clocks."""
    return settings.init is not None or settings.freeze


def _blank(values: Tensor, mask_N: Tensor, zero: Zero) -> Tensor:
    """Values without what is masked, so that no convolution sees it: pixels of `zero`, the unknown id, zeros."""
    nothing = BLANK[zero] if values.dtype == torch.uint8 else 0
    return values.masked_fill(mask_N.view(-1, *[1] * (values.ndim - 1)), nothing)


class GridPosition(nn.Module):
    """Learned tables for the row and the column of a token; a side of length 1 has none."""

    def __init__(self, max_grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        rows, columns = max_grid
        self.rows = nn.Embedding(rows, dim) if rows > 1 else None
        self.columns = nn.Embedding(columns, dim) if columns > 1 else None

    def forward(self, cells: Cells) -> Tensor:
        """Sum of both tables at each token, `[T, D]` (a plain 0 for a field of single tokens)."""
        place_TD = torch.zeros((), device=cells.row_T.device)
        if self.rows is not None:
            place_TD = place_TD + self.rows(cells.row_T)
        if self.columns is not None:
            place_TD = place_TD + self.columns(cells.column_T)
        return place_TD


class TimeEmbedding(nn.Module):
    """Where a token lies in time: sines and cosines of periods from 50 ms to 12 days, then one linear map.

    The fields of a sample share it, so a sound and a sensor reading of the same second get the same vector.
    """

    turns: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        periods = torch.logspace(math.log10(0.05), 6, NUM_PERIODS, dtype=torch.float64)
        self.register_buffer("turns", 2 * math.pi / periods, persistent=False)
        self.project = nn.Linear(2 * NUM_PERIODS, dim, bias=False)

    def forward(self, times_N: Tensor, num_rows: int) -> Tensor:
        """Seconds `[N]` -> `[T, D]`; zeros for slack."""
        angle_NP = times_N.double().unsqueeze(1) * self.turns  # float32 would blur 50 ms at the end of a day
        waves = torch.cat([angle_NP.sin(), angle_NP.cos()], dim=1).float()
        out_TD: Tensor = self.project(pad(waves, (0, 0, 0, num_rows - len(times_N))))
        return out_TD


class IdVectors(nn.Embedding):
    """A table of learned vectors of ids, set apart from other tables by how it begins (`initialise`)."""


class IdTable(nn.Module):
    """A learned vector for each id, times `scale` (Vaswani et al. 2017, where it is the root of `dim`).

    With a scale, vectors small enough to be the rows of an output matrix are as large as what layers add to them.
    """

    def __init__(self, spec: FieldSpec, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.table = IdVectors(spec.vocab_size, dim)

    def forward(self, ids_N: Tensor, cells: Cells) -> Tensor:
        """`[N]` -> `[T, D]`."""
        out_TD: Tensor = self.table(pad(ids_N, (0, cells.segments.num_rows - len(ids_N))))
        return out_TD * self.scale


def scale_pixels(values: Tensor, zero: Zero = "grey") -> Tensor:
    """uint8 pixels 0..255 as float32, 2 from black to white, 0 at `zero`; other numbers as they are, in float32."""
    return values.float().mul_(1 / 127.5).sub_(_LEVEL[zero]) if values.dtype == torch.uint8 else values.float()


class PatchProjection(nn.Module):
    """A linear map of each patch."""

    def __init__(self, spec: FieldSpec, dim: int, zero: Zero = "grey") -> None:
        super().__init__()
        self.zero: Zero = zero
        self.project = nn.Linear(spec.patch_dim, dim)

    def forward(self, values_NP: Tensor, cells: Cells) -> Tensor:
        """`[N, P]` -> `[T, D]`."""
        rows_TP = pad(scale_pixels(values_NP, self.zero), (0, 0, 0, cells.segments.num_rows - len(values_NP)))
        out_TD: Tensor = self.project(rows_TP)
        return out_TD


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

    One 3 x 3 convolution, the maximum of 2 x 2, LayerNorm over channels and GELU for each halving from pixels to
    tokens, then a linear map: one cell is left for each patch. LayerNorm doesn't mix places: pictures stay independent.
    Against stride 2 in place of the maximum: +3 points on pictures of emoji alone, and the same time.

    Pictures of different shapes share a canvas of the largest rows and columns in the pack; what lies outside a picture
    is set to zero before each convolution, so it is the zero border that the picture has alone.
    Memory is channels-last, where torch's CPU convolutions are 3 times as fast.

    Args:
        spec: a field of square pixel patches, side a power of two.
        dim: width of the output; channels grow towards it in equal steps.
        zero: colour that is 0, as all is outside of a picture.
    """

    def __init__(self, spec: FieldSpec, dim: int, zero: Zero = "grey") -> None:
        super().__init__()
        self.zero: Zero = zero
        self.channels = spec.channels
        steps = math.isqrt(spec.patch_dim // spec.channels).bit_length() - 1
        widths = [spec.channels, *(max(8, dim * i // (steps + 1) // 8 * 8) for i in range(1, steps + 1))]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(o) for o in widths[1:])
        self.project = nn.Linear(widths[-1], dim)

    def forward(self, values_NP: Tensor, cells: Cells) -> Tensor:
        """`[N, P]` -> `[T, D]`."""
        (rows, columns), pictures = _canvas(cells)
        present_S = cells.grids_S2[:, 0] > 0
        picture_T = move(pad(present_S.cumsum(0) - 1, (0, 1)), values_NP.device)[cells.segments.owner_T]
        cell_T = (picture_T * rows + cells.row_T) * columns + cells.column_T
        taken = cell_T[: len(values_NP)]
        canvas = values_NP.new_zeros(pictures * rows * columns, values_NP.shape[1]).index_copy_(0, taken, values_NP)
        x = scale_pixels(unfold(canvas, (rows, columns), self.channels), self.zero)
        inside = None
        if len(values_NP) < int(present_S.sum()) * rows * columns:
            inside = x.new_zeros(len(canvas), 1).index_fill_(0, taken, 1).view(pictures, rows, columns, 1)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = max_pool2d(convolution(_clear_outside(x, inside).permute(0, 3, 1, 2)), 2)
            x = gelu(norm(x.permute(0, 2, 3, 1)))
        out_TD: Tensor = self.project(x.reshape(len(canvas), -1)).index_select(0, cell_T)
        return out_TD


def _canvas(cells: Cells) -> tuple[tuple[int, int], int]:
    """Rows and columns that hold every picture of the pack, and the number of pictures, rounded up for the kernels."""
    grids = cells.grids_S2
    if not len(grids) or not int(grids.amax()):
        return (1, 1), 1
    pictures = int((grids[:, 0] > 0).sum())
    return (int(grids[:, 0].amax()), int(grids[:, 1].amax())), round_up(pictures, 8)


def _clear_outside(x_BHWC: Tensor, inside: Tensor | None) -> Tensor:
    """Zero outside the pictures; `inside` is 1 or 0 for each patch `[B, rows, columns, 1]`, None if all are full."""
    if inside is None:
        return x_BHWC
    side = x_BHWC.shape[1] // inside.shape[1]
    return x_BHWC * inside.to(x_BHWC.dtype).repeat_interleave(side, 1).repeat_interleave(side, 2)


class SequenceStem(nn.Module):
    """Two residual convolutions over three neighbouring tokens, within the sample, on packed tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Linear(3 * dim, dim) for _ in range(2))

    def forward(self, x_TD: Tensor, segments: Segments) -> Tensor:
        """`[T, D]` -> `[T, D]`; zeros stand where a token has no neighbour in its sample."""
        lengths_T = pad(segments.lengths_N, (0, 1), value=1)[segments.owner_T]
        first_T1 = (segments.offset_T == 0).unsqueeze(1)
        last_T1 = (segments.offset_T + 1 == lengths_T).unsqueeze(1)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            h_TD = norm(x_TD)
            before_TD = h_TD.roll(1, 0).masked_fill(first_T1, 0)
            after_TD = h_TD.roll(-1, 0).masked_fill(last_T1, 0)
            x_TD = x_TD + gelu(convolution(torch.cat([before_TD, h_TD, after_TD], dim=1))).float()
        return x_TD
