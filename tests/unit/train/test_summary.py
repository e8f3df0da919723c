"""What a run will take is said before it starts, and what a reader would not expect is said in words."""

from pathlib import Path

from interlace.recipe.load import parse_recipe
from interlace.train.run import prepare
from interlace.train.summary import _packing
from tests.data import EmojiLike


def test_epochs_that_a_step_makes_many_of_are_told(shapes: EmojiLike, tmp_path: Path) -> None:
    few = {"batch": {"token_budget": 256, "global_batch": 4}, "train": {"epochs": 2, "precision": "fp32"}}
    large = {"batch": {"token_budget": 256, "global_batch": 64}, "train": {"epochs": 2, "precision": "fp32"}}
    told = {}
    for name, sections in (("few", few), ("large", large)):
        tree = shapes.tree(tmp_path / name) | sections
        prepared = prepare(parse_recipe(tree), map)
        told[name] = [line for line in _packing(prepared) if line.startswith("note: 2 epochs have")]
        assert (prepared.schedule.stop > 2.2 * prepared.schedule.packs_an_epoch) is (name == "large")
    assert not told["few"]
    assert "a step takes 64: lower `batch.global_batch`" in told["large"][0]
