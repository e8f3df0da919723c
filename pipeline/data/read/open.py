"""Readers of an index: a split with its plan, its codec and its cache of decoded values."""

import hashlib
import json

from interlace.contract.flops import Flops, ModelShape, model_flops
from interlace.data.index.build import Index
from interlace.data.index.fit import Fitted
from interlace.data.index.identity import reading, target_settings
from interlace.data.index.records import RecordCodec, make_codec
from interlace.data.plan.mix import MixSettings
from interlace.data.plan.plan import PlanSettings
from interlace.data.read.cache import CACHE_VERSION, LIBRARIES, Cache
from interlace.data.read.reader import Reader
from interlace.recipe.recipe import Recipe
from interlace.store.places import decoded_of


def open_reader(index: Index, recipe: Recipe, split: str, *, training: bool) -> Reader:
    """The reader of one split of an index."""
    codec = make_codec(recipe.reads, index.fitted)
    return Reader(
        manifest=index.manifests[split],
        plan_settings=plan_settings(recipe, training=training),
        codec=codec,
        flops=recipe_flops(recipe, codec),
        training=training,
        mix=mix_settings(recipe) if split == "train" and training else None,
        cache=decoded_cache(recipe, index.fitted),
    )


def decoded_cache(recipe: Recipe, fitted: Fitted) -> Cache | None:
    """The cache of decoded values of a recipe, None where it is turned off."""
    if not recipe.data.cache_gb:
        return None
    reads = {
        "code": CACHE_VERSION,
        "libraries": LIBRARIES,
        "fields": [(n, reading(f)) for n, f in recipe.fields.items()],
        "targets": target_settings(recipe.reads),
        "fitted": fitted,
    }
    return Cache(
        folder=recipe.data.cache_folder or str(decoded_of(recipe.storage)),
        limit_bytes=int(recipe.data.cache_gb * 1e9),
        reads=hashlib.sha256(json.dumps(reads, sort_keys=True).encode()).hexdigest(),
    )


def mix_settings(recipe: Recipe) -> MixSettings | None:
    """The weights of the training sources, where there are several."""
    weights = tuple(source.weight for source in recipe.data.mix.values())
    return MixSettings(weights=weights, window_rows=recipe.data.mix_rows) if weights else None


def recipe_flops(recipe: Recipe, codec: RecordCodec) -> Flops:
    """What samples cost in the recipe's model, by their tokens."""
    model = recipe.model
    shape = ModelShape(
        fusion=model.fusion,
        dim=model.dim,
        mlp_ratio=model.mlp_ratio,
        field_layers=model.field_layers,
        joint_layers=model.joint_layers,
        bottleneck_tokens=model.bottleneck_tokens,
        query=model.query,
    )
    specs = {name: modality.spec for name, (modality, _) in codec.fields.items()}
    return model_flops(shape, specs, {name: field.stem for name, field in recipe.fields.items()})


def plan_settings(recipe: Recipe, *, training: bool) -> PlanSettings:
    """The settings of a plan: as the recipe says for training; in file order, one pack a step, for evaluation."""
    return PlanSettings(
        seed=recipe.seed,
        token_budget=recipe.batch.token_budget,
        global_batch=recipe.batch.global_batch if training else 1,
        window_packs=max(recipe.data.window_packs, recipe.batch.global_batch),
        shuffle=training,
    )
