"""Which number of workers an elastic group takes, and what it is asked from outside."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeError
from pipeline.journal import Journal, last_point
from pipeline.recipe import parse_recipe
from pipeline.train.elastic import Rules
from pipeline.train.notice import Lookout, ask_for_checkpoint, checkpoint_given, checkpoint_wanted
from pipeline.train.stop import ask, clear
from tests.data import EmojiLike


def node(cpus: float, *, alive: bool = True, **labels: str) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus} if cpus else {}, "Labels": labels}


def rules(sizes: tuple[int, ...] = (1, 2, 4, 8), cpus: float = 1.0, **labels: dict[str, str]) -> Rules:
    given = {"train_labels": {}, "data_labels": {}} | labels
    return Rules(sizes=sizes, cpus=cpus, run=Path("unused"), **given)


@pytest.mark.parametrize("nodes", [[4.0], [2.0, 2.0], [1.0, 1.0, 1.0], [16.0], [0.0, 8.0], [1.0]])
@pytest.mark.parametrize("fitting", [0, 1, 2, 3, 5, 16])
@pytest.mark.parametrize("cpus", [0.5, 1.0, 2.0])
def test_a_group_has_an_allowed_size_and_leaves_data_tasks_a_cpu(nodes: list[float], fitting: int, cpus: float) -> None:
    allowed = (1, 2, 4, 8)
    size = rules(cpus=cpus).most(fitting, [node(c) for c in nodes])
    possible = [s for s in allowed if s <= fitting and s * cpus + 1 <= sum(nodes)]
    assert size == max(possible, default=0)


def test_nodes_that_only_read_data_free_the_others() -> None:
    pools = rules(train_labels={"pool": "train"}, data_labels={"pool": "data"})
    there = [node(2, pool="train"), node(2, pool="train"), node(1, pool="data")]
    assert pools.most(16, there) == 4
    assert pools.most(16, [*there[:1], node(2, alive=False, pool="train"), there[2]]) == 2
    assert pools.most(16, there[:2]) == 2, "without a data node one CPU is kept back"
    assert pools.most(3, there) == 2


def test_workers_are_numbers_that_divide_the_global_batch(shapes: EmojiLike, tmp_path: Path) -> None:
    tree = shapes.tree(tmp_path, batch={"global_batch": 12}, train={"workers": {"min": 2, "max": 8}})
    assert parse_recipe(tree).world_sizes == (2, 3, 4, 6)
    tree["train"]["workers"] = 3
    assert parse_recipe(tree).world_sizes == (3,)
    for workers, fault in ((5, "must divide"), ({"min": 5, "max": 5}, "must divide"), ({"min": 3, "max": 2}, "above")):
        tree["train"]["workers"] = workers
        with pytest.raises(RecipeError, match=fault):
            parse_recipe(tree)


def test_rank_0_alone_tells_what_is_asked_and_at_most_once_a_second(tmp_path: Path) -> None:
    now = [0.0]
    first, second = (Lookout(tmp_path, rank, nodes=True, clock=lambda: now[0]) for rank in (0, 1))
    ask(tmp_path)
    ask_for_checkpoint(tmp_path, "1 to 2 workers")
    assert first.numbers() == (0, 0, 0, 0)
    second.read_cpu_s = 0.25
    now[0] = 1.5
    assert second.numbers() == (0, 0, 0, 0.25)
    assert second.numbers() == (0, 0, 0, 0)
    assert first.numbers() == (1, 1, 0, 0)
    assert first.numbers() == (0, 0, 0, 0)
    assert checkpoint_wanted(tmp_path) == "1 to 2 workers"
    clear(tmp_path)
    checkpoint_given(tmp_path)
    now[0] = 6.0
    assert first.numbers() == (0, 0, 1, 0), "nodes are asked for every five seconds"
    assert checkpoint_wanted(tmp_path) is None


def test_the_last_point_of_a_journal_is_found_however_long_it_is(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_point(path) is None
    journal = Journal(path)
    for step in range(1, 3000):
        journal.log(step, {"train/loss": 1 / step, "samples_per_s": 12.5})
    journal.close()
    found = last_point(path)
    assert found is not None
    assert (found.step, found.metrics["train/loss"]) == (2999, 1 / 2999)
    with path.open("ab") as file:
        file.write(b'{"t": 1, "step": 3000, "m"')
    torn = last_point(path)
    assert torn is not None
    assert torn.step == 2999
