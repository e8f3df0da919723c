"""Which number of workers an elastic group takes, and what it is asked from outside."""

import itertools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from interlace.contract.errors import RecipeError
from interlace.recipe.load import parse_recipe
from interlace.store.journal import Journal, last_point
from interlace.train.elastic import Rules
from interlace.train.signals import SignalWatcher, ask_for_checkpoint, checkpoint_given, checkpoint_wanted, enough_stay
from interlace.train.stop import ask, clear
from tests.data import EmojiLike


def node(cpus: float, gpus: float = 0.0, *, alive: bool = True, **labels: str) -> dict[str, Any]:
    there = {"CPU": cpus, "GPU": gpus}
    return {"Alive": alive, "Resources": {k: v for k, v in there.items() if v}, "Labels": labels}


def rules(
    sizes: tuple[int, ...] = (1, 2, 4, 8), cpus: float = 1.0, gpus: float = 0.0, **labels: dict[str, str]
) -> Rules:
    given = {"train_labels": {}, "data_labels": {}} | labels
    return Rules(sizes=sizes, cpus=cpus, gpus=gpus, run=Path("unused"), **given)


def has(node: dict[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a node that Ray lists has all labels."""
    return all(node["Labels"].get(name) == value for name, value in labels.items())


def ends(workers: int, rule: Rules, nodes: list[dict[str, Any]]) -> list[list[float]]:
    """All ways to put workers on nodes, as the CPUs that nodes for reading have left."""
    found = []
    for numbers in itertools.product(range(workers + 1), repeat=len(nodes)):
        if sum(numbers) != workers:
            continue
        left = []
        for number, one in zip(numbers, nodes, strict=True):
            cpus = one["Resources"].get("CPU", 0.0) - number * rule.cpus
            gpus = one["Resources"].get("GPU", 0.0) - number * rule.gpus
            if not one["Alive"] or cpus < 0 or gpus < 0 or (number and not has(one, rule.train_labels)):
                if number:
                    break
                continue
            if has(one, rule.data_labels):
                left.append(cpus)
        else:
            found.append(left)
    return found


def test_a_group_has_the_largest_allowed_size_that_leaves_data_tasks_a_cpu_wherever_workers_are_put() -> None:
    """All placements are tried, over many small clusters; sums over nodes would allow more than they hold."""
    rng, seen = random.Random(0), {"sum says more": 0, "none": 0, "fewer than fit": 0, "as many as fit": 0}
    for _ in range(1500):
        labelled = rng.random() < 0.3
        own = {"train_labels": {"pool": "train"}, "data_labels": {"pool": "data"}} if labelled else {}
        rule = rules((1, 2, 4), rng.choice([0.5, 0.75, 1.0, 1.5]), rng.choice([0.0, 0.0, 1.0]), **own)
        nodes = [
            node(
                rng.choice([0.0, 0.5, 1.0, 1.5, 2.0, 3.0]), rng.choice([0.0, 1.0, 2.0]), alive=rng.random() < 0.9,
                **({"pool": rng.choice(["train", "data"])} if labelled else {}),
            )
            for _ in range(rng.randint(1, 3))
        ]  # fmt: skip
        fitting = max(n for n in range(7) if ends(n, rule, nodes))
        works = [s for s in rule.sizes if (left := ends(s, rule, nodes)) and all(max(x, default=0) >= 1 for x in left)]
        size = rule.most(99, nodes)
        assert size == rule.most(fitting, nodes) == max(works, default=0), (rule, nodes)
        assert rule.most(1, nodes) == (1 if 1 in works else 0)
        reading = sum(n["Resources"].get("CPU", 0.0) for n in nodes if n["Alive"] and has(n, rule.data_labels))
        by_sum = max((s for s in rule.sizes if s <= fitting and (labelled or s * rule.cpus + 1 <= reading)), default=0)
        seen["sum says more"] += size < by_sum
        most = max((s for s in rule.sizes if s <= fitting), default=0)
        seen["none" if not size else "as many as fit" if size == most else "fewer than fit"] += 1
    assert min(seen.values()) > 50, seen


def test_nodes_that_only_read_data_free_the_others() -> None:
    pools = rules(train_labels={"pool": "train"}, data_labels={"pool": "data"})
    there = [node(2, pool="train"), node(2, pool="train"), node(1, pool="data")]
    assert pools.most(16, there) == 4
    assert pools.most(16, [*there[:1], node(2, alive=False, pool="train"), there[2]]) == 2
    assert pools.most(16, there[:2]) == 0, "without a data node nothing can be read"
    assert pools.most(3, there) == 2


def test_workers_are_numbers_that_divide_the_global_batch(shapes: EmojiLike, tmp_path: Path) -> None:
    tree = shapes.tree(tmp_path, batch={"global_batch": 12}, train={"workers": {"min": 2, "max": 8}})
    assert parse_recipe(tree).world_sizes == (2, 3, 4, 6)
    tree["train"]["workers"] = 3
    assert parse_recipe(tree).world_sizes == (3,)
    for workers, error in ((5, "must divide"), ({"min": 5, "max": 5}, "must divide"), ({"min": 3, "max": 2}, "above")):
        tree["train"]["workers"] = workers
        with pytest.raises(RecipeError, match=error):
            parse_recipe(tree)


def test_rank_0_alone_tells_what_is_asked_and_at_most_once_a_second(tmp_path: Path) -> None:
    now = [0.0]
    first, second = (SignalWatcher(tmp_path, rank, nodes=True, clock=lambda: now[0]) for rank in (0, 1))
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


@pytest.mark.parametrize(
    ("leaving", "world_size", "sizes", "leaves"),
    [
        (set(), 2, (1, 2), False),
        ({1}, 2, (1, 2), True),
        ({0, 3}, 4, (2, 4), True),
        ({0, 1, 3}, 4, (2, 4), False),  # until the nodes are gone there is no better place
        ({0}, 2, (2,), False),  # a fixed number of workers
        ({0, 1}, 2, (1, 2), False),
    ],
)
def test_a_group_leaves_nodes_in_time_where_enough_workers_stay(
    leaving: set[int], world_size: int, sizes: tuple[int, ...], leaves: bool
) -> None:
    assert enough_stay(leaving, world_size, sizes) == leaves


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
