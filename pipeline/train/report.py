"""What a step tells. The host's part is there at once; what the device computed is read when it is asked for.

The loop asks one step later, so the device never waits for the host: see `loop`.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from interlace.contract.errors import NonFiniteLossError
from interlace.contract.sample import BadRecord
from interlace.train.collectives import Busy
from interlace.train.signals import Signals
from interlace.train.transfer import Reading, Span

COLLECTIVES_S = "train/collectives_s"
"""Metric: seconds of a step in which rank 0 had a collective under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackTrace:
    """What one pack did: for records of exactly which samples were trained on, with which loss."""

    step: int
    position: int
    sample_ids: tuple[int, ...]
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What the device computed in a step.

    Args:
        loss: weighted sum of all tasks' losses over the global number of targets.
        by_pack: the share of it of each pack of this rank.
        by_task: mean loss of each task.
        norm: of the gradient.
        factors: learned weight of each task; none where weights are fixed.
    """

    loss: float
    by_pack: tuple[float, ...]
    by_task: tuple[float, ...]
    norm: float
    factors: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimizer step, as every rank sees it.

    `loss`, `metrics` and `traces` wait for the device. They raise NonFiniteLossError where the step's loss or gradient
    is not finite: then neither this step nor any later one has changed the weights.

    Args:
        step: number of this step, from 1.
        epoch: epoch of the step's last pack on this rank.
        rate: learning rate.
        counts: targets of each task in the whole step.
        weights: of the tasks' losses, as the recipe has them.
        known: further metrics that the host knows, by journal key.
        packs: position and sample ids of each of this rank's packs.
        bad: records found bad in this step's packs on this rank.
        signals: what all ranks know to be asked after this step.
        ranks: of each rank, seconds that it waited for packs and seconds of its forward passes (on a GPU: of their
            launch); without the exchange of gradients, in which all wait for the slowest.
        computed: the loss where it is over several ranks, the loss by pack, by task, the gradient's norm, the learned
            weights; float64, not yet read.
        over_ranks: whether there are several; of one rank the loss is the sum over its packs.
        spans: by journal key, what this rank took that long for: of its GPU copies and computation, of several ranks
            collectives.
    """

    step: int
    epoch: int
    rate: float
    counts: Mapping[str, float]
    weights: Mapping[str, float]
    known: Mapping[str, float]
    packs: tuple[tuple[int, tuple[int, ...]], ...]
    bad: tuple[BadRecord, ...]
    signals: Signals
    ranks: tuple[tuple[float, float], ...]
    computed: Reading
    over_ranks: bool
    spans: Mapping[str, tuple[Span | Busy, ...]]

    @functools.cached_property
    def numbers(self) -> Numbers:
        """All that the device computed, read once. Raises NonFiniteLossError."""
        own, read = (n := self.computed.numbers())[: self.over_ranks], tuple(n[self.over_ranks :])
        packs, tasks = len(self.packs), len(self.counts)
        by_pack, by_task, (norm, *factors) = read[:packs], read[packs : packs + tasks], read[packs + tasks :]
        loss = own[0] if own else sum(by_pack)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteLossError(
                f"step {self.step}: loss {loss}, gradient norm {norm}, at learning rate {self.rate:.3g}; the weights of"
                f" step {self.step - 1} are kept. Lower `optim.lr` or `optim.clip`, or set `train.precision` to fp32"
            )
        return Numbers(loss=loss, by_pack=by_pack, by_task=by_task, norm=norm, factors=tuple(factors))

    @property
    def loss(self) -> float:
        """Weighted sum of all tasks' losses over the global number of targets."""
        return self.numbers.loss

    @property
    def metrics(self) -> Mapping[str, float]:
        """All numbers by journal key.

        `train/<task>/loss` of tasks with a target in the step, and the weight of each in the step's loss.
        """
        found = self.numbers
        losses = zip(self.counts.items(), found.by_task, strict=True)
        factors = found.factors or (1.0,) * len(self.weights)
        return {
            "train/loss": found.loss,
            **{f"train/{name}/loss": loss for (name, count), loss in losses if count},
            **{f"train/{name}/weight": w * x for (name, w), x in zip(self.weights.items(), factors, strict=True)},
            "train/lr": self.rate,
            "train/grad_norm": found.norm,
            **self.known,
            **self._times(),
        }

    def _times(self) -> dict[str, float]:
        """Seconds of the spans, and the share of the step in which a collective was under way."""
        times = {name: sum(span.seconds or 0.0 for span in spans) for name, spans in self.spans.items()}
        if COLLECTIVES_S in times:
            times["train/collectives_share"] = times[COLLECTIVES_S] / self.known["step_s"]
        return times

    @property
    def traces(self) -> tuple[PackTrace, ...]:
        """This rank's packs."""
        packs = zip(self.packs, self.numbers.by_pack, strict=True)
        return tuple(PackTrace(step=self.step, position=p, sample_ids=ids, loss=loss) for (p, ids), loss in packs)
