"""Retrieval: two groups of fields of a sample find each other, by embeddings compared over the whole set.

Symmetric InfoNCE with a learned temperature (Radford et al. 2021, CLIP): each side is told from the other sides of its
pack, or of the packs of all ranks. A sample that lacks one side takes no part. Each group is encoded from its own
fields alone (`outputs.groups`), so no side sees the other.
"""

# S samples, P samples of all ranks, N pairs of a set, E width of an embedding, D width

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from interlace.contract.batch import Batch, move
from interlace.contract.charts import Chart, Curves
from interlace.contract.ranks import are_several, most_over_ranks
from interlace.model.network import Outputs
from interlace.recipe import tasks as recipe
from interlace.tasks.base import ColumnType, Context, State, Task
from interlace.tasks.classification import apply_head

RECALL_AT = (1, 5, 10)
DIRECTIONS = ("left_to_right", "right_to_left")
LEAST_TEMPERATURE = 0.01
"""As CLIP has it: logits are never scaled by more than 100."""
BLOCK_NUMBERS = 1 << 22
"""Similarities held at a time: 16 MB."""
ROUNDING = 1e-6
"""Similarities as close as this are equal: how a product is rounded depends on the block that it is in."""


class RetrievalTask(Task):
    """Bring the two sides of a sample together and those of different samples apart.

    Args:
        settings: the task's part of the recipe.
        context: of which the model's width is read.
    """

    main_metric = "recall_10"
    higher_is_better = True
    reads_sample = False

    def __init__(self, settings: recipe.RetrievalTask, context: Context) -> None:
        super().__init__()
        self.name = context.name
        self.settings = settings
        self.groups = (settings.left, settings.right)
        self.sides = nn.ModuleList(
            nn.Linear(context.model.dim, settings.embedding_dim, bias=False) for _ in self.groups
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))

    def count(self, batch: Batch) -> int:
        """Samples that have both sides."""
        sides = [torch.stack([batch.fields[n].lengths > 0 for n in group]).any(0) for group in self.groups]
        return int((sides[0] & sides[1]).sum())

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """InfoNCE of both directions, halved, summed over samples that have both sides."""
        with torch.no_grad():  # in place, so that a step beyond the bound can be taken back by the next
            self.log_scale.clamp_(max=-math.log(LEAST_TEMPERATURE))
        return self._losses(outputs, batch, over_ranks=self.settings.negatives == "ranks").sum()

    @property
    def prediction_types(self) -> Mapping[str, ColumnType]:
        """An embedding of each side."""
        return {"left": "doubles", "right": "doubles"}

    def predict(self, outputs: Outputs) -> list[dict[str, Any]]:
        """`left` and `right`: unit vectors as lists of `embedding_dim` numbers, None where a side is missing."""
        sides = zip(self.groups, self._embeddings(outputs), strict=True)
        lists = [
            [
                row if there else None
                for row, there in zip(x.tolist(), outputs.groups[g].present_S.tolist(), strict=True)
            ]
            for g, x in sides
        ]
        return [{"left": left, "right": right} for left, right in zip(*lists, strict=True)]

    def state(self, outputs: Outputs, batch: Batch) -> State:
        """`loss` (each pair told from those of its pack), `count`, and lists of one tensor a batch over its pairs.

        `left`, `right` are float32 `[n, E]`, `group` int64 `[n]`, `grouped` bool `[n]`.
        """
        both_S = self._both(outputs)
        left_SE, right_SE = self._embeddings(outputs)
        group_S, grouped_S = (move(x, both_S.device) for x in self._group(batch))
        kept = {"left": left_SE, "right": right_SE, "group": group_S, "grouped": grouped_S}
        state: State = {name: [item[both_S].detach().cpu()] for name, item in kept.items()}
        loss = self._losses(outputs, batch, over_ranks=False).detach().double().sum().cpu()
        return state | {"loss": loss, "count": both_S.sum().cpu()}

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        """`loss`, `pairs` and, with all pairs as gallery, recall@1, 5, 10 and the median rank of both directions.

        `recall_10` and `median_rank` are means over the directions, `left_to_right_recall_10` is that of one.
        """
        count = int(state["count"])
        names = [*(f"recall_{k}" for k in RECALL_AT), "median_rank"]
        by_direction = [[math.nan] * len(names)] * 2
        if count:
            both = self._ranks(state)
            by_direction = [[*(float((r <= k).mean()) for k in RECALL_AT), float(np.median(r))] for r in both]
        found = {"loss": float(state["loss"]) / count if count else math.nan, "pairs": float(count)}
        found |= {name: sum(pair) / 2 for name, *pair in zip(names, *by_direction, strict=True)}
        for direction, numbers in zip(DIRECTIONS, by_direction, strict=True):
            found |= {f"{direction}_{name}": value for name, value in zip(names, numbers, strict=True)}
        return found

    def charts(self, state: Mapping[str, Any]) -> dict[str, Chart]:
        """`ranks`: the share of pairs found among the first so many, in both directions and by chance."""
        count = int(state["count"])
        if not count:
            return {}
        xs = np.unique(np.geomspace(1, count, 100).round())
        lines = {
            direction.replace("_", " "): (ranks[:, None] <= xs).mean(0)
            for direction, ranks in zip(DIRECTIONS, self._ranks(state), strict=True)
        }
        lines["chance"] = xs / count
        return {"ranks": Curves(xs=xs, lines=lines, x_label="first so many of the gallery", y_label="share found")}

    def _ranks(self, state: Mapping[str, Any]) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        """Ranks of both directions, float64 `[N]`."""
        left_NE, right_NE = torch.cat(state["left"]), torch.cat(state["right"])
        group_N = torch.arange(len(left_NE))
        if self.settings.group is not None:
            value_N, grouped_N = torch.cat(state["group"]), torch.cat(state["grouped"])
            seen_N = torch.unique(value_N, return_inverse=True)[1]
            group_N = torch.where(grouped_N, seen_N, group_N + len(group_N))
        pairs = ((left_NE, right_NE), (right_NE, left_NE))
        return [ranks_of(queries, gallery, group_N).numpy() for queries, gallery in pairs]

    def _both(self, outputs: Outputs) -> Tensor:
        left, right = (outputs.groups[group].present_S for group in self.groups)
        return left & right

    def _embeddings(self, outputs: Outputs) -> list[Tensor]:
        """Unit vectors of both sides, float32 `[S, E]`; zeros where a side is missing."""
        states = [outputs.groups[group].pooled_SD for group in self.groups]
        return [functional.normalize(apply_head(h, x), dim=1) for h, x in zip(self.sides, states, strict=True)]

    def _group(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Int64 `[S]` group of each sample, and bool `[S]` whether it has one, on the CPU."""
        count = batch.num_samples
        group_S = torch.zeros(count, dtype=torch.int64)
        if self.settings.group is None:
            return group_S, torch.zeros(count, dtype=torch.bool)
        target = batch.targets[self.name]
        group_S[target.present] = target.values
        return group_S, target.present

    def _losses(self, outputs: Outputs, batch: Batch, *, over_ranks: bool) -> Tensor:
        """The loss of each sample `[S]`, 0 where it lacks a side.

        Every sample is the positive of its own row, also one without a side: so all rows stay finite.
        """
        both_S = self._both(outputs)
        group_S, grouped_S = (move(x, both_S.device) for x in self._group(batch))
        ours = [*self._embeddings(outputs), both_S, group_S, grouped_S]
        theirs, first = gather(ours) if over_ranks else (ours, 0)
        left_SE, right_SE = ours[0], ours[1]
        left_PE, right_PE, both_P, group_P, grouped_P = theirs
        self_S = torch.arange(len(both_S), device=both_S.device) + first
        same_SP = (group_S.unsqueeze(1) == group_P) & grouped_S.unsqueeze(1) & grouped_P
        left_out_SP = (same_SP | ~both_P).scatter(1, self_S.unsqueeze(1), False)
        scale = self.log_scale.exp()
        total_S = both_S.new_zeros(len(both_S), dtype=torch.float32)
        with torch.autocast(both_S.device.type, enabled=False):
            for query_SE, gallery_PE in ((left_SE, right_PE), (right_SE, left_PE)):
                logits_SP = (scale * query_SE @ gallery_PE.T).masked_fill(left_out_SP, -math.inf)
                total_S = total_S + functional.cross_entropy(logits_SP, self_S, reduction="none") / 2
        return total_S * both_S


def ranks_of(queries_NE: Tensor, gallery_NE: Tensor, group_N: Tensor) -> Tensor:
    """The rank of the best of its own group that each query finds in the gallery, float64 `[N]`, 1 is first.

    Others of equal similarity count half, so a model that says the same of all ranks as chance does. Blocks of queries
    bound the memory.
    """
    ranks = []
    size = max(1, BLOCK_NUMBERS // max(len(gallery_NE), 1))
    for query_BE, group_B in zip(torch.split(queries_NE, size), torch.split(group_N, size), strict=True):
        likeness_BN = query_BE @ gallery_NE.T
        own_BN = group_B.unsqueeze(1) == group_N
        best_B1 = likeness_BN.masked_fill(~own_BN, -math.inf).amax(1, keepdim=True)
        likeness_BN = likeness_BN.masked_fill(own_BN, -math.inf)
        above_BN = likeness_BN - best_B1
        ranks.append(1 + (above_BN > ROUNDING).sum(1).double() + (above_BN.abs() <= ROUNDING).sum(1).double() / 2)
    return torch.cat(ranks)


def gather(own: list[Tensor]) -> tuple[list[Tensor], int]:
    """Each tensor `[S, ...]` of all ranks end to end, and where this rank's rows begin; alone, the tensors themselves.

    Ranks have packs of different sizes, so rows of zeros fill up to the longest. Gradients flow back to every rank.
    """
    if not are_several():
        return own, 0
    rows = most_over_ranks(len(own[0]))
    padded = [functional.pad(x, (0, 0) * (x.ndim - 1) + (0, rows - len(x))) for x in own]
    return [_Gather.apply(x) for x in padded], rows * dist.get_rank()  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """All ranks' rows; the gradient of a row is the sum of what all ranks' losses say of it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
