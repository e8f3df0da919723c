"""Laws of embeddings and stems: references from torch's own convolutions."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from interlace.model.attention import Segments
from interlace.model.cells import find_cells
from interlace.model.embedding import FieldEmbedding, PixelStem, SequenceStem, TimeEmbedding, fold, scale_pixels, unfold
from interlace.recipe.fields import ImageField
from tests.networks import FIELDS, SPECS, build, draw_batch, rows_of, with_fields


def test_patches_to_pixels_and_back_is_exact():
    rows, columns, side, channels = 2, 3, 4, 3
    picture = torch.randint(0, 256, (5, rows * side, columns * side, channels), dtype=torch.uint8)
    patches = torch.stack(
        [
            picture[b, r * side : (r + 1) * side, c * side : (c + 1) * side].flatten()
            for b in range(5)
            for r in range(rows)
            for c in range(columns)
        ]
    )
    assert torch.equal(unfold(patches, (rows, columns), channels), picture)
    assert torch.equal(fold(picture, side), patches)
    assert patches.shape == (5 * rows * columns, side * side * channels)


def test_pixels_are_scaled_and_other_numbers_are_not():
    assert scale_pixels(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]
    assert scale_pixels(torch.tensor([0, 255], dtype=torch.uint8), "white").tolist() == [-2.0, 0.0]
    assert scale_pixels(torch.tensor([0, 255], dtype=torch.uint8), "black").tolist() == [0.0, 2.0]
    assert scale_pixels(torch.tensor([0.0, 255.0]), "white").tolist() == [0.0, 255.0]
    assert scale_pixels(torch.tensor([2.0], dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize("zero", ["grey", "white", "black"])
def test_pixel_stem_equals_convolutions_of_each_picture_alone(zero):
    torch.manual_seed(0)
    stem, item = PixelStem(SPECS["photo"], 32, zero), draw_batch(missing=0.3).fields["photo"]
    segments = Segments(item.lengths)
    out = stem(item.values, find_cells(item.grids, segments))
    shapes = set()
    for sample, (rows, columns) in enumerate(item.grids.tolist()):
        if not rows:
            continue
        shapes.add((rows, columns))
        x = scale_pixels(unfold(item.values[rows_of(item, sample)], (rows, columns), 3), zero).permute(0, 3, 1, 2)
        for convolution, norm in zip(stem.convolutions, stem.norms, strict=True):
            x = functional.max_pool2d(functional.conv2d(x, convolution.weight, padding=1), 2)
            x = functional.gelu(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        want = stem.project(x.permute(0, 2, 3, 1).reshape(rows * columns, -1))
        torch.testing.assert_close(out[rows_of(item, sample)], want, atol=1e-5, rtol=1e-5)
    assert len(shapes) > 2
    assert len(out) == segments.num_rows


@pytest.mark.parametrize("stem", ["linear", "cnn"])
@pytest.mark.parametrize(("zero", "level"), [("white", 255), ("black", 0)])
def test_paper_of_the_colour_zero_is_nothing_to_the_network(stem, zero, level):
    settings = ImageField(modality="image", column="x", stem=stem, zero=zero)
    torch.manual_seed(0)
    embedding, item = FieldEmbedding(SPECS["photo"], settings, 16), draw_batch().fields["photo"]
    ink = embedding(item, Segments(item.lengths))
    mask = torch.ones(len(item.values), dtype=torch.bool)
    blank = replace(item, values=torch.full_like(item.values, level))
    paper = embedding.content(blank.values, find_cells(item.grids, Segments(item.lengths)))
    nothing = embedding.content.project.bias.expand_as(paper)
    torch.testing.assert_close(paper, nothing, atol=1e-5, rtol=0)
    unseen = embedding(item, Segments(item.lengths), mask=mask)
    torch.testing.assert_close(unseen, embedding(blank, Segments(item.lengths)), atol=1e-5, rtol=0)
    assert not torch.allclose(ink, unseen, atol=1e-2)


def test_pixel_stem_halves_down_to_the_patch():
    widths = [c.out_channels for c in PixelStem(SPECS["photo"], 128).convolutions]
    assert widths == [40, 80]
    assert len(PixelStem(SPECS["scan"], 128).convolutions) == 1


def test_sequence_stem_equals_convolutions_of_each_sample_alone():
    torch.manual_seed(0)
    stem, segments = SequenceStem(8), Segments(torch.tensor([3, 0, 1, 5, 2]))
    x = torch.randn(segments.num_rows, 8)
    out = stem(x, segments)
    start = 0
    for length in [3, 1, 5, 2]:
        want = x[start : start + length]
        for norm, convolution in zip(stem.norms, stem.convolutions, strict=True):
            kernel = convolution.weight.view(8, 3, 8).transpose(1, 2)
            h = functional.conv1d(norm(want).T[None], kernel, convolution.bias, padding=1)[0].T
            want = want + functional.gelu(h)
        torch.testing.assert_close(out[start : start + length], want, atol=1e-5, rtol=1e-5)
        start += length
    assert start == 11


def test_position_is_row_and_column_of_the_grid():
    item = draw_batch().fields["scan"]
    segments = Segments(item.lengths)
    cells = find_cells(item.grids, segments)
    sample = int(item.lengths.argmax())
    rows, columns = item.grids[sample].tolist()
    got = list(zip(cells.row_T.tolist(), cells.column_T.tolist(), strict=True))[rows_of(item, sample)]
    assert got == [(r, c) for r in range(rows) for c in range(columns)]
    assert rows * columns > 4


def test_same_token_differs_by_place_and_field():
    embedding = build().embeddings["of_values"]
    assert isinstance(embedding, FieldEmbedding)
    embedding.stem = None
    item = draw_batch().fields["values"]
    item.values.fill_(7)
    x = embedding(item, Segments(item.lengths))
    first = rows_of(item, int(item.lengths.argmax())).start
    assert not torch.allclose(x[first], x[first + 1])
    torch.testing.assert_close(
        x[first] - embedding.field_D,
        embedding.content.table.weight[7] + embedding.position.rows.weight[0],
        atol=1e-6,
        rtol=1e-6,
    )


def test_a_field_of_single_tokens_has_no_position():
    embedding = FieldEmbedding(SPECS["type"], FIELDS["type"], 16)
    item = draw_batch().fields["type"]
    assert sorted(name for name, _ in embedding.named_parameters()) == ["content.table.weight", "field_D"]
    assert embedding(item, Segments(item.lengths)).shape == (32, 16)


def test_clock_tells_times_apart_from_milliseconds_to_days_and_ignores_slack():
    torch.manual_seed(0)
    clock = TimeEmbedding(32)
    times = torch.tensor([0.0, 0.02, 1.0, 60.0, 3600.0, 86_400.0, 86_400.02, 172_800.0])
    vectors = clock(times, 12)
    assert vectors.shape == (12, 32)
    assert not vectors[len(times) :].any()
    distances = torch.cdist(vectors[: len(times)], vectors[: len(times)]) + 9 * torch.eye(len(times))
    assert distances.min() > 0.01


def test_time_reaches_the_sample_state_and_belongs_to_its_sample():
    network, batch = build(), draw_batch()
    item = batch.fields["series"]
    sample = int(item.lengths.argmax())
    assert item.times is not None
    times = item.times.clone()
    times[rows_of(item, sample)] += 3.0
    later = network(with_fields(batch, {"series": replace(item, times=times)})).sample_SD
    changed = (later - network(batch).sample_SD).abs().amax(1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [sample]
