"""Where a recipe's workers and data tasks may run, and whether they fit there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from interlace.cluster.connect import Cluster, Node, living
from interlace.cluster.preflight import DATA_CPUS, EPSILON, Allotment, DoesNotFitError, Need, Place, allot, left_to_data
from interlace.data.stream import Beside
from interlace.recipe.train import Train


def nodes_with(there: Cluster, setting: str, labels: Mapping[str, str]) -> tuple[Node, ...]:
    """The nodes with the labels of a setting. Raises DoesNotFitError where none has them: its tasks would wait on."""
    nodes = there.with_labels(labels)
    if not nodes:
        raise DoesNotFitError(f"`{setting}`: no node of the cluster has the labels {dict(labels)}")
    return nodes


def readers(there: Cluster, setting: str, labels: Mapping[str, str]) -> tuple[Node, ...]:
    """The nodes with the labels of a setting that have room for data tasks. Raises DoesNotFitError where none has."""
    nodes = nodes_with(there, setting, labels)
    able = tuple(n for n in nodes if n.cpus >= DATA_CPUS)
    if not able:
        chosen = f"the nodes with `{setting}` {dict(labels)}" if labels else "the nodes of the cluster"
        listed = ", ".join(f"{n.cpus:g}" for n in nodes)
        raise DoesNotFitError(f"data tasks need a node with {DATA_CPUS:g} CPU, but {chosen} have {listed}")
    return able


def places(train_labels: Mapping[str, str], data_labels: Mapping[str, str], there: Cluster) -> list[Place]:
    """The nodes of a cluster as a recipe's labels let it use them. Raises DoesNotFitError where no node has them."""
    train = nodes_with(there, "train.labels", train_labels)
    data = nodes_with(there, "data.labels", data_labels)
    return [Place(cpus=n.cpus, gpus=n.gpus, trains=n in train, reads=n in data) for n in there.nodes]


def fit_into(
    there: Cluster, train: Train, world_sizes: Sequence[int], data_labels: Mapping[str, str]
) -> tuple[Train, Allotment]:
    """Give each worker as many CPUs as the cluster has for it.

    Args:
        there: the cluster.
        train: the section.
        world_sizes: numbers of workers that the run may have, ascending.
        data_labels: of the nodes that read.

    Returns:
        The section with the CPUs of a worker, and the arithmetic.

    Raises:
        DoesNotFitError: it doesn't fit.
    """
    need = Need(
        workers=world_sizes[0],
        cpus_per_worker=train.cpus_per_worker,
        gpus_per_worker=train.gpus_per_worker,
        most_workers=world_sizes[-1],
    )
    allotment = allot(need, places(train.labels, data_labels, there))
    return train.model_copy(update={"cpus_per_worker": allotment.cpus_per_worker}), allotment


def beside(train: Train, workers: int, data_labels: Mapping[str, str], listed: Sequence[Mapping[str, Any]]) -> Beside:
    """How an evaluation's data tasks run: as many as there are CPUs for data, on the nodes where training data is read.

    Args:
        train: the section.
        workers: fewest of the run.
        data_labels: of the nodes that read.
        listed: the nodes, as `ray.nodes()` gives them.
    """
    there = {n["NodeID"]: node for n in listed for node in living([n])}
    reading = [name for name, node in there.items() if node.has(data_labels) and node.cpus >= DATA_CPUS]
    places = [
        Place(cpus=node.cpus, trains=node.has(train.labels), reads=name in reading) for name, node in there.items()
    ]
    cpus = left_to_data(workers * train.cpus_per_worker, places)
    return Beside(tasks=max(1, math.floor(cpus + EPSILON)), nodes=tuple(reading))
