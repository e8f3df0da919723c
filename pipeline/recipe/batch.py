"""Settings of packing: how samples make packs, and packs a step."""

from pydantic import Field

from interlace.recipe.base import Node


class Batch(Node):
    """How samples are packed and how many packs make a step."""

    token_budget: int = Field(2048, ge=8, description="Most tokens in a pack.")
    global_batch: int = Field(1, ge=1, description="Packs in one optimizer step, over all workers.")
