"""How fields meet: each fusion is a small class, by name in `FUSIONS`, all safe with any subset of the fields.

1. `joint`: tokens meet. Layers attend within the sample, at once, late, or through a few shared tokens.
2. `cross_attention`: tokens of one field, or of each, attend to those of the others.
3. `late`: one vector a field, combined by numbers that are learned, computed, or none.
4. `attention_share` finds what share of attention each field gets. `laws` holds what is true of each fusion.
"""

from collections.abc import Callable, Mapping, Sequence

from interlace.model.fusion import Fusion
from interlace.model.fusions.cross_attention import CrossAttention
from interlace.model.fusions.joint import Bottleneck, Early, Mid
from interlace.model.fusions.late import Concat, Decision, Gated, Product, WeightedSum
from interlace.recipe.model import Model
from interlace.recipe.plugins import Joined

FUSIONS: Mapping[str, Callable[[Model, Sequence[str]], Fusion]] = Joined(
    "fusions",
    {
        "early": Early,
        "mid": Mid,
        "bottleneck": Bottleneck,
        "cross_attention": CrossAttention,
        "weighted_sum": WeightedSum,
        "product": Product,
        "gated": Gated,
        "concat": Concat,
        "decision": Decision,
    },
    lambda found: found.part(found.plugin.make),
)
"""Name in a recipe -> class."""

__all__ = ["FUSIONS"]
