"""Laws of fitting and making that hold for every row of the table of modalities."""

import json
from datetime import date
from typing import get_args

import pytest

from interlace.modalities import MODALITIES, learner, make
from interlace.modalities.laws import check_learning
from interlace.recipe.fields import AnyField, AudioField, ImageField, SeriesField, TableField, TextField
from tests.fitting import fit

FIELDS = [
    (ImageField(modality="image", column="c"), [(b"not read",)]),
    (AudioField(modality="audio", column="c"), [(b"not read",)]),
    (TextField(modality="text", column="c"), [("not read",)]),
    (TextField(modality="text", column="c", tokenizer="bpe", vocab_size=300), [("some text",), ("more text",)]),
    (TextField(modality="text", column="c", tokenizer="characters"), [("some text",), ("狗",)]),
    (TableField(modality="table", numbers=("a", "b")), [(1.5, None), (0.1, 7), (0.2, 3)]),
    (TableField(modality="table", categories=("a", "b")), [("x", None), ("y", 7), ("x", True)]),
    (TableField(modality="table", dates=("a", "b")), [("2024-02-29", None), (date(1999, 1, 1), "2001-02-03T04:05")]),
    (SeriesField(modality="series", channels=("a", "b")), [([1.5, None], [2, 3]), ([0.1], None)]),
    (SeriesField(modality="series", column="a"), [([[1.5, None], [2, 3]],), ([[0.1, 2]],)]),
    (
        SeriesField(modality="series", time="t", channel="c", value="v"),
        [([1, 2], ["a", "b"], [2.5, 3]), ([0], [7], [1])],
    ),
]


def test_every_field_kind_of_a_recipe_has_a_modality():
    kinds = {get_args(kind.model_fields["modality"].annotation)[0] for kind in get_args(get_args(AnyField)[0])}
    assert kinds == set(MODALITIES) == {field.modality for field, _ in FIELDS}


@pytest.mark.parametrize(("field", "values"), FIELDS)
def test_fitted_state_is_plain_deterministic_json(field, values):
    state = check_learning(lambda: learner(field), values)
    again = json.loads(json.dumps(state))
    assert again == state == fit(field, iter(values))
    made, remade = make("f", field, state), make("f", field, again)
    assert made.spec == remade.spec
    assert made.spec.name == "f"
    if field.modality not in ("image", "audio"):
        assert all(made.decode(v).tobytes() == remade.decode(v).tobytes() for v in values)


def test_fitting_reads_no_values_where_nothing_is_learned():
    def values():
        raise AssertionError("was read")
        yield ()

    assert [fit(field, values()) for field, _ in FIELDS[:3]] == [{}, {}, {}]
    with pytest.raises(AssertionError, match="was read"):
        fit(FIELDS[4][0], values())


@pytest.mark.parametrize(("field", "values"), FIELDS[3:])
def test_fitting_goes_once_over_the_values_without_keeping_them(field, values):
    """Values live only while they are looked at, but for the byte-pair trainer's read-ahead."""
    alive = most = 0

    class Row(tuple):
        def __new__(cls, value):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, value)

        def __del__(self):
            nonlocal alive
            alive -= 1

    total = 20_000
    fit(field, (Row(values[i % len(values)]) for i in range(total)))
    assert alive == 0
    assert 1 <= most < total / 10
