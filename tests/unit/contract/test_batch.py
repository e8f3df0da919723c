"""Arrays cross to a device in one memory, each whole and aligned, whatever its type and shape."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from interlace.contract.batch import ALIGNMENT, cross, to_batch
from interlace.contract.sample import FieldPack, Pack, TargetPack
from tests.networks import draw_pack

TYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
SHAPES = ((0,), (0, 7), (1,), (3, 5), (257,), (2, 3, 4))


def drawn(kind: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    made = np.random.default_rng(len(shape)).integers(0, 100, shape).astype(kind)
    made.flags.writeable = False
    return made


def test_arrays_of_every_type_and_shape_cross_as_they_are() -> None:
    arrays = [drawn(kind, shape) for kind in TYPES for shape in SHAPES]
    arrays += [drawn("int32", (8, 6))[::2, ::3], drawn("uint8", (4, 4)).T]
    crossed = cross(arrays, "cpu")
    for array, tensor in zip(arrays, crossed, strict=True):
        assert tensor.numpy().dtype == array.dtype
        assert tensor.shape == array.shape
        assert np.array_equal(tensor.numpy(), array)
    assert len({x.untyped_storage().data_ptr() for x in crossed}) == 1
    places = [x.data_ptr() - crossed[0].untyped_storage().data_ptr() for x in crossed if x.numel()]
    assert [place % ALIGNMENT for place in places] == [0] * len(places)
    assert len(set(places)) == len(places), "arrays lie in each other's place"


def test_nothing_crosses_as_nothing() -> None:
    assert cross([], "cpu") == []
    assert [x.shape for x in cross([np.zeros((0, 3), np.float32)], "cpu")] == [(0, 3)]


@pytest.mark.parametrize("crossing", [False, True])
def test_a_batch_holds_what_its_pack_holds(crossing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied array by array as on a CPU, and through one memory as to a GPU."""
    pack = with_pixels(draw_pack(3, samples=5))
    if crossing:
        monkeypatch.setattr("interlace.contract.batch._crosses", lambda device: True)
    batch = to_batch(pack, "cpu")
    memories = {x.untyped_storage().data_ptr() for x in batch.on_device if x.dtype != torch.int64 and x.numel()}
    assert (len(memories) == 1) == crossing
    for name, field in pack.fields.items():
        got = batch.fields[name]
        assert np.array_equal(got.values.numpy(), field.values)
        assert got.values.dtype == (torch.int64 if field.values.ndim == 1 else torch.from_numpy(field.values).dtype)
        assert got.lengths.tolist() == field.lengths.tolist()
        assert (got.times is None) == (field.times is None)
        if got.times is not None:
            assert np.array_equal(got.times.numpy(), field.times)
    assert {x.dtype for x in batch.on_device} == {torch.int64, torch.uint8, torch.float32}


def with_pixels(pack: Pack) -> Pack:
    pixels = FieldPack(
        values=np.arange(12, dtype=np.uint8).reshape(2, 6),
        lengths=np.array([2, 0, 0, 0, 0], np.int32),
        grids=np.array([(1, 2), *[(0, 0)] * 4], np.int32),
    )
    target = TargetPack(values=np.arange(5), lengths=np.ones(5, np.int32), present=np.ones(5, np.bool_))
    return Pack(
        position=pack.position,
        epoch=0,
        sample_ids=pack.sample_ids,
        fields={**pack.fields, "pixels": pixels},
        targets={"label": target},
    )
