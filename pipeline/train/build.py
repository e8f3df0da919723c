"""Assembles a network from a recipe: the one place where fields, fusion and tasks come together."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import modalities
from pipeline.model.network import Network
from pipeline.recipe import Recipe
from pipeline.sample import FieldSpec
from pipeline.tasks import TASKS

Labels = Mapping[str, tuple[Sequence[str | int], Sequence[int]]]


def build_network(recipe: Recipe, specs: Mapping[str, FieldSpec], labels: Labels) -> Network:
    """The network of a recipe, weights drawn from torch's global generator.

    Args:
        recipe: fields, model and tasks.
        specs: shape of each field's tokens.
        labels: classes and their counts, for each task.
    """
    tasks = {
        name: TASKS[task.task](task, *labels[name], recipe.model.dim, list(recipe.fields))
        for name, task in recipe.tasks.items()
    }
    return Network(specs, recipe.fields, recipe.model, tasks)


def network_for(recipe: Recipe, fitted: Mapping[str, Any]) -> Network:
    """The network of a recipe whose modalities and targets are fitted; see `pipeline.data.index.Index`."""
    specs = {n: modalities.make(n, field, fitted["fields"][n]).spec for n, field in recipe.fields.items()}
    labels = {n: (fitted["targets"][n]["classes"], fitted["targets"][n]["counts"]) for n in recipe.tasks}
    return build_network(recipe, specs, labels)
