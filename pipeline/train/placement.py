"""Where a recipe's workers and data tasks may run, and whether they fit there."""

from collections.abc import Mapping

from interlace.cluster.connect import Cluster, Node
from interlace.cluster.preflight import DATA_CPUS, Allotment, DoesNotFitError, Need, Place, allot
from interlace.recipe.recipe import Recipe


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


def places(recipe: Recipe, there: Cluster) -> list[Place]:
    """The nodes of a cluster as a recipe's labels let it use them. Raises DoesNotFitError where no node has them."""
    train = nodes_with(there, "train.labels", recipe.train.labels)
    data = nodes_with(there, "data.labels", recipe.data.labels)
    return [Place(cpus=n.cpus, gpus=n.gpus, trains=n in train, reads=n in data) for n in there.nodes]


def fit_into(recipe: Recipe, there: Cluster) -> tuple[Recipe, Allotment]:
    """The recipe with as many CPUs reserved for each worker as the cluster can give. Raises DoesNotFitError."""
    settings = recipe.train
    need = Need(
        workers=recipe.world_sizes[0],
        cpus_per_worker=settings.cpus_per_worker,
        gpus_per_worker=settings.gpus_per_worker,
        most_workers=recipe.world_sizes[-1],
    )
    allotment = allot(need, places(recipe, there))
    changed = settings.model_copy(update={"cpus_per_worker": allotment.cpus_per_worker})
    return recipe.model_copy(update={"train": changed}), allotment
