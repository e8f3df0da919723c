"""Assembles a network from a recipe: the one place where fields, fusion and tasks come together."""

from collections.abc import Mapping
from typing import Any

from interlace.contract.sample import FieldSpec
from interlace.model.network import Network
from interlace.model.transformer import Block
from interlace.recipe.recipe import Recipe
from interlace.tasks import TASKS, Context
from interlace.tasks.weighting import UncertaintyWeights


def build_network(recipe: Recipe, specs: Mapping[str, FieldSpec], targets: Mapping[str, Mapping[str, Any]]) -> Network:
    """The network of a recipe, weights drawn from torch's seed and the names of its parts.

    Args:
        recipe: fields, model and tasks.
        specs: shape of each field's tokens.
        targets: fitted state of each task that has a target.
    """
    tasks = {
        name: TASKS[task.task](
            task,
            Context(name=name, model=recipe.model, fields=recipe.fields, specs=specs, fitted=targets.get(name, {})),
        )
        for name, task in recipe.tasks.items()
    }
    learned = recipe.optim.task_weighting == "uncertainty"
    weighting = UncertaintyWeights(list(tasks)) if learned else None
    network = Network(specs, recipe.fields, recipe.model, tasks, weighting)
    for module in network.modules():
        if isinstance(module, Block):
            module.recompute = recipe.train.checkpoint_activations
    return network


def network_for(recipe: Recipe, fitted: Mapping[str, Any]) -> Network:
    """The network of a recipe whose modalities and targets are fitted; see `interlace.data.index.build.Index`."""
    from interlace import modalities  # decoders of files, which `build_network` can do without

    specs = {n: modalities.make(n, field, fitted["fields"][n]).spec for n, field in recipe.fields.items()}
    return build_network(recipe, specs, fitted["targets"])
