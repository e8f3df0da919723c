"""The training loop: PyTorch only, packs in, reports out. Ray and MLflow are not known here.

    packs of one step -> counts of targets over all ranks -> forward, backward -> clip -> update -> report

The loss of a step is the sum over its targets divided by their number over all ranks and packs, so how packs are dealt
to ranks changes nothing but rounding. Dropout is drawn from (seed, position) of each pack.

On a GPU the host runs ahead: a step is launched without reading what the step before computed, and a loss that is not
finite stops the update on the device first, and the loop one step later. So it is with several ranks: devices sum what
they computed among themselves, and hosts tell each other what they know (`contract.ranks`).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from interlace.contract.batch import Batch, move
from interlace.contract.errors import PositionError
from interlace.contract.ranks import are_several, gather_objects, sum_over_ranks
from interlace.contract.sample import Pack
from interlace.model.network import Network, Outputs
from interlace.recipe.recipe import Recipe
from interlace.tasks import State
from interlace.tasks.weighting import UncertaintyWeights
from interlace.train.average import WeightAverage
from interlace.train.collectives import Busy, Collectives
from interlace.train.devices import Utilization, memory_peak, mfu
from interlace.train.optim import learning_rate, set_rate, update_unless
from interlace.train.parallel import delay_exchange, finish_gradients, whole_state
from interlace.train.report import COLLECTIVES_S, StepReport
from interlace.train.signals import Signals
from interlace.train.transfer import Arrival, Reading, Span, arriving


class Losses(nn.Module):
    """The network with its losses as one forward pass, so that what distributes it sees every parameter used."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self.weights = {name: task.weight for name, task in recipe.tasks.items()}
        self.packs = recipe.batch.global_batch

    def forward(self, batch: Batch, counts: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        """A pack's part of a step's loss.

        Args:
            batch: the pack.
            counts: targets of each task in the whole step.

        Returns:
            The weighted sum over tasks, and each task's own loss `[tasks]`, detached; a task without any target in the
            step has no part.
        """
        outputs = self.network(batch)
        losses = torch.stack([t.loss(outputs, batch) / max(counts[n], 1.0) for n, t in self.network.tasks.items()])
        terms = losses * move(
            torch.tensor([self.weights[n] for n in self.network.tasks], dtype=losses.dtype), losses.device
        )
        if isinstance(learned := self.network.weighting, UncertaintyWeights):
            terms = terms * torch.stack([learned.weight(n) for n in self.network.tasks])
            penalties = [learned.penalty(n) * (counts[n] > 0) for n in self.network.tasks]
            terms = terms + torch.stack(penalties) / self.packs  # added once a step
        return terms.sum(), losses.detach()


def _nothing() -> tuple[float, float, float, float]:
    return 0.0, 0.0, 0.0, 0.0


@dataclass(slots=True, kw_only=True)
class Loop:
    """A loop over optimizer steps.

    Args:
        network: on its device.
        optimizer: made for `network`.
        recipe: weights of tasks, schedule, clipping, precision.
        num_steps: length of the run; decides the schedule.
        device: where batches go.
        rank, world_size: of this process.
        distributed: `Losses(network)` as `parallel.distribute` gave it, for more than one rank.
        whole: another network of the recipe to evaluate with, where that of the loop is sharded.
        rate_scale: factor of the scheduled rate; set from outside after evaluations.
        watcher: what this rank is asked from outside, as numbers that are summed over ranks with each step's.
        utilization: what packs ask of the device, for `train/mfu`; None where nobody asks.
        collectives: noted those of `distributed`, for `train/collectives_share`; None where nobody asks.

    Attributes:
        average: of the weights, with `optim.ema`.
        forward_s: seconds of forward passes in this step.
        wrong: whether any step had a loss or gradient that is not finite, on the device; then no update follows.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    num_steps: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    distributed: nn.Module | None = None
    whole: Network | None = None
    rate_scale: float = 1.0
    watcher: Callable[[], tuple[float, float, float, float]] = _nothing
    utilization: Utilization | None = None
    collectives: Collectives | None = None
    losses: nn.Module = field(init=False)
    average: WeightAverage | None = field(init=False)
    forward_s: float = field(init=False, default=0.0)
    wrong: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        assert self.distributed is not None or self.world_size == 1
        ema = self.recipe.optim.ema
        self.average = WeightAverage(self.network, ema) if ema else None
        self.losses = self.distributed if self.distributed is not None else Losses(self.network, self.recipe)

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Metrics over all ranks' batches of the model as it would be kept now: averaged where `optim.ema` says so.

        With whole weights, since ranks may have different numbers of batches.
        """
        with self.average.applied() if self.average else nullcontext():
            if self.whole is not None:
                self.whole.load_state_dict(whole_state(self.network))
            return evaluate(self.whole or self.network, batches, self.recipe, self.device)

    def steps(self, packs: Iterator[Pack], first: int) -> Iterator[StepReport]:
        """Run the steps `first + 1 .. num_steps`, reporting each.

        What the device computed in a step is read while it computes the next.

        Raises:
            PositionError: a pack is not the one that the plan has here.
            NonFiniteLossError: a step later, with the weights as they were before.
        """
        share = self.recipe.batch.global_batch // self.world_size
        report: StepReport | None = None
        with arriving(packs, self.device) as arrivals:
            for step in range(first, self.num_steps):
                began = time.perf_counter()
                own = []
                for i in range(share):
                    arrival = next(arrivals, None)
                    expected = step * self.recipe.batch.global_batch + i * self.world_size + self.rank
                    own.append(self._checked(arrival, expected))
                waited = time.perf_counter() - began
                report = self._step(step, own, waited, began, report)
                yield report
        if report is not None:
            report.numbers  # noqa: B018 # raises where the last step went wrong

    def _checked(self, arrival: Arrival | None, expected: int) -> Arrival:
        if arrival is None or arrival.pack.position != expected:
            got = "the end of the stream" if arrival is None else f"position {arrival.pack.position}"
            raise PositionError(
                f"expected the pack at position {expected} on rank {self.rank} of {self.world_size}, but got {got}"
            )
        return arrival

    def _step(
        self, step: int, arrivals: Sequence[Arrival], waited: float, began: float, before: StepReport | None
    ) -> StepReport:
        packs = [arrival.pack for arrival in arrivals]
        self.network.train()
        rate = learning_rate(self.recipe.optim, step, self.num_steps) * self.rate_scale
        set_rate(self.optimizer, rate)
        batches = [arrival.take() for arrival in arrivals]
        computing = Span(self.device)
        computing.begin()
        counts = self._count_targets(batches)
        self.optimizer.zero_grad(set_to_none=True)
        self.forward_s = 0.0
        own = [self._backward(batch, counts, sync=i == len(batches) - 1) for i, batch in enumerate(batches)]
        norm = finish_gradients(self.network, self.recipe.optim.clip)
        by_pack, by_task = torch.stack([x for x, _ in own]), torch.stack([x for _, x in own]).sum(0)
        times = [0.0] * (3 * self.world_size)
        times[3 * self.rank : 3 * self.rank + 3] = waited, self.forward_s, memory_peak(self.device)
        work = self.utilization.of_packs(packs) if self.utilization else (0.0, math.nan)
        known = [*_sizes(packs), *self.watcher(), *times, *work]
        loss = by_pack[:0]
        if self.world_size > 1:  # what others are asked and how long they took is acted on at once
            loss, by_task, known = self._exchange(by_pack, by_task, known)
        computed = torch.cat([x.double() for x in (loss, by_pack, by_task, norm.reshape(1), self._factors())])
        total = (loss if self.world_size > 1 else by_pack).double().sum()
        self._update(step, ~(total.isfinite() & norm.isfinite()))
        computing.end()
        reading = Reading(computed)  # before it is waited for what came before
        if before is not None:
            before.numbers  # noqa: B018 # read while the device computes this step; raises where it went wrong
        seconds = time.perf_counter() - began
        tokens, samples, stop, save, look, read, *times, flops, peak = known
        ranks = tuple(zip(times[::3], times[1::3], strict=True))
        capacity = self.recipe.batch.token_budget * self.recipe.batch.global_batch
        return StepReport(
            step=step + 1,
            epoch=packs[-1].epoch,
            rate=rate,
            counts=counts,
            weights={name: task.weight for name, task in self.recipe.tasks.items()},
            known={
                "train/epoch": float(packs[-1].epoch),
                "data/wait_s": sum(wait for wait, _ in ranks) / self.world_size,
                "data/cpu_s": read,
                "data/real_tokens_share": tokens / capacity,
                "samples_per_s": samples / seconds,
                "tokens_per_s": tokens / seconds,
                "step_s": seconds,
                "train/memory_peak_bytes": max(times[2::3]),
                **mfu(flops, peak, seconds),
                **slowest(ranks),
            },
            packs=tuple((p.position, tuple(p.sample_ids.tolist())) for p in packs),
            bad=tuple(b for p in packs for b in p.bad),
            signals=Signals(stop=stop > 0, save=save > 0, look_at_nodes=look > 0),
            ranks=ranks,
            computed=reading,
            over_ranks=self.world_size > 1,
            spans=_spans(arrivals, computing, self.collectives if self.world_size > 1 else None),
        )

    def _update(self, step: int, wrong: Tensor) -> None:
        """Move the weights, unless this step or one before it went `wrong`; a GPU decides that by itself."""
        self.wrong = wrong if self.wrong is None else self.wrong | wrong
        update_unless(self.wrong, self.optimizer)
        if self.average:
            self.average.update(step + 1, self.wrong)

    def _exchange(self, by_pack: Tensor, by_task: Tensor, known: Sequence[float]) -> tuple[Tensor, Tensor, list[float]]:
        """The loss `[1]`, each task's loss `[tasks]` and what the host knows, summed over ranks.

        What a GPU computes is summed from device to device, so that no host waits for its own.
        """
        if self.device.type == "cuda":
            losses = torch.cat([by_pack.double().sum().reshape(1), by_task.double()])
            dist.all_reduce(losses)
            return losses[:1], losses[1:], self._sum(known)
        summed = self._sum([sum(by_pack.tolist()), *known[:6], *by_task.tolist(), *known[6:]])
        first, last = 7, 7 + len(by_task)
        losses = torch.tensor([summed[0], *summed[first:last]], dtype=torch.float64)
        return losses[:1], losses[1:], [*summed[1:first], *summed[last:]]

    def _factors(self) -> Tensor:
        """The learned weights of the tasks' losses `[tasks]`, empty where they are fixed."""
        learned = self.network.weighting
        if not isinstance(learned, UncertaintyWeights):
            return torch.zeros(0, device=self.device)
        return torch.stack([learned.weight(name).detach() for name in self.recipe.tasks])

    def _count_targets(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Targets of each task in the whole step."""
        own = [sum(task.count(b) for b in batches) for task in self.network.tasks.values()]
        return dict(zip(self.network.tasks, self._sum(own), strict=True))

    def _backward(self, batch: Batch, counts: Mapping[str, float], *, sync: bool) -> tuple[Tensor, Tensor]:
        """Forward and backward of one pack; its share of the step's loss, and of each task's `[tasks]`."""
        seed_pack(self.recipe.seed, batch.position)
        delay_exchange(self.losses, not sync)
        began = time.perf_counter()
        with autocast(self.recipe, self.device):
            loss, by_task = self.losses(batch, counts)
        self.forward_s += time.perf_counter() - began
        (loss * self.world_size).backward()  # averaging over ranks undoes the factor
        return loss.detach(), by_task

    def _sum(self, numbers: Iterable[float]) -> list[float]:
        """Each number summed over ranks."""
        return sum_over_ranks(torch.tensor([float(n) for n in numbers], dtype=torch.float64)).tolist()


def slowest(ranks: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Which of several ranks the others wait for, its seconds before the exchange, and their mean."""
    if len(ranks) < 2:
        return {}
    seconds = [sum(own) for own in ranks]
    most = max(seconds)
    return {
        "rank/slowest": float(seconds.index(most)),
        "rank/slowest_s": most,
        "rank/mean_s": sum(seconds) / len(seconds),
    }


def seed_pack(seed: int, position: int) -> None:
    """Make torch's randomness a function of (seed, position), whatever came before and on whichever rank."""
    torch.manual_seed((seed * 1_000_003 + position * 2 + 1) % (1 << 63))


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's mixed precision on a device."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.train.precision == "bf16")


def evaluate(network: Network, batches: Iterable[Batch], recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Metrics of every task over all ranks' batches, as `task/metric`.

    States add over batches and ranks before any number is made of them, so no average of averages is taken.
    """
    return {
        f"{name}/{metric}": value
        for name, state in metric_states(network, batches, recipe, device).items()
        for metric, value in network.tasks[name].compute(state).items()
    }


States = dict[str, State]
"""Additive metric states by task and name."""


def metric_states(network: Network, batches: Iterable[Batch], recipe: Recipe, device: torch.device) -> States:
    """The summed metric states of every task over all ranks' batches."""
    total: States = {n: {} for n in network.tasks}
    for batch in batches:
        add_states(total, batch_states(network, batch, recipe, device))
    return _sum_states(total)


def batch_states(network: Network, batch: Batch, recipe: Recipe, device: torch.device) -> States:
    """The metric states of one batch."""
    return {n: s for _, states in evaluated(network, batch, recipe, device) for n, s in states.items()}


def evaluated(network: Network, batch: Batch, recipe: Recipe, device: torch.device) -> list[tuple[Outputs, States]]:
    """What the network says of a batch, and the metric states of the tasks that read it.

    Tasks that mask tokens see what is left; the others are judged by what they say of all.
    """
    network.eval()
    found = []
    with torch.no_grad(), autocast(recipe, device):
        for masks in (False, True):
            tasks = {n: t for n, t in network.tasks.items() if bool(t.masked_fields) == masks}
            if tasks:
                outputs = network(batch, mask_tokens=masks)
                found.append((outputs, {n: t.state(outputs, batch) for n, t in tasks.items()}))
    return found


def add_states(total: States, more: States) -> None:
    """Add `more` to `total` in place."""
    for name, state in more.items():
        for key, value in state.items():
            total[name][key] = total[name][key] + value if key in total[name] else value  # type: ignore[operator]


def _sum_states(own: States) -> States:
    """States summed over ranks; a rank without batches has none to add."""
    if not are_several():
        return own
    total: States = {n: {} for n in own}
    for states in gather_objects(own):
        add_states(total, states)
    return total


def _sizes(packs: Sequence[Pack]) -> tuple[int, int]:
    return sum(p.num_tokens for p in packs), sum(len(p.sample_ids) for p in packs)


def _spans(
    arrivals: Sequence[Arrival], computing: Span, collectives: Collectives | None
) -> dict[str, tuple[Span | Busy, ...]]:
    """What a rank was busy with in a step, by journal key; copies, computation and collectives overlap."""
    found: dict[str, tuple[Span | Busy, ...]] = {}
    if computing.ended is not None:
        found |= {"data/transfer_s": tuple(arrival.span for arrival in arrivals), "train/compute_s": (computing,)}
    if collectives is not None:
        found[COLLECTIVES_S] = (collectives.taken(),)
    return found
