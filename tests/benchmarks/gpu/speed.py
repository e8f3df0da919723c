"""How fast a model trains: Interlace's loop over packs, a padded loop, and one over buckets of like length.

Gives a line of figures for each loop, then what a step of Interlace's does: its kernels, and where the host waits.
"""

import gc
import math
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interlace.contract.sample import Pack
from interlace.model.network import Network
from interlace.model.transformer import Block
from interlace.train.build import build_network
from interlace.train.compile import Compiler, compile_layers
from interlace.train.devices import Utilization, device_peak
from interlace.train.loop import Loop, autocast
from interlace.train.optim import make_optimizer
from interlace.train.prefetch import prefetch
from interlace.train.report import StepReport
from tests.benchmarks.gpu.mix import Mix, endless
from tests.benchmarks.gpu.padded import PaddedBatch, PaddedNetwork, bucketed, in_turn

Line = dict[str, Any]
"""Figures by name."""
AHEAD = 4
"""Packs that are fetched ahead, as a worker has it."""
TOP = 25
"""Kernels that are listed of a step."""
AT_ONCE = 4
"""Packs' tokens, padded, of the layers over all fields that a padded loop computes at once, at most; half of it where
memory is short. Activations of the largest model take about 1 MB a token."""
UNCOMPILED = "interlace, not compiled"
SHARE = {"interlace": 0.3, UNCOMPILED: 0.1, "padded": 0.3, "bucketed": 0.2}
"""Of a part's time that each loop may take, compilations included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long to measure.

    Args:
        warm: steps before the clock starts; they compile, and let memory grow.
        steps: of which the time is taken, and more of them where these take less than `least_s`.
        least_s: seconds.
        until: `time.monotonic()` at which the whole part ends.
    """

    warm: int
    steps: int
    least_s: float
    until: float

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


@dataclass(slots=True, kw_only=True)
class Bench:
    """A model of a size on a device.

    Args:
        mix: its recipe and packs.
        device: where it trains.
        limits: of time.
    """

    mix: Mix
    device: torch.device
    limits: Limits
    network: Network = field(init=False)
    packs: list[Pack] = field(init=False)

    def __post_init__(self) -> None:
        made = self.mix.made
        torch.manual_seed(0)
        self.network = build_network(made.recipe, made.specs, made.targets).to(self.device)
        self.packs = self.mix.packs()

    def lines(self) -> Iterator[Line]:
        """All figures, each as soon as it is there; what breaks, or there is no time for, is said."""
        began, total = time.monotonic(), self.limits.left()
        own = self._interlace("interlace", began + SHARE["interlace"] * total, compiled=True)
        yield from guarded("interlace", own)
        if self.device.type == "cuda":
            own = self._interlace(UNCOMPILED, time.monotonic() + SHARE[UNCOMPILED] * total, compiled=False)
            yield from guarded(UNCOMPILED, own)
        for name in ("padded", "bucketed"):
            if self.limits.left() < SHARE["bucketed"] / 2 * total:
                yield {"loop": name, "not run": "no time left"}
                continue
            yield from guarded(name, self._padded(name, time.monotonic() + SHARE[name] * total))

    def _interlace(self, name: str, until: float, *, compiled: bool) -> Iterator[Line]:
        """Interlace's own loop: speed, then, of the one as it is by default, host's reads and the kernels of a step."""
        recipe = self.mix.made.recipe
        told: list[str] = []
        for block in self.network.modules():
            if isinstance(block, Block):
                block.compiled = None
        wanted = recipe.train.compile if compiled else False
        compiler = compile_layers(self.network, wanted, self.device, told.append)
        ahead = prefetch(endless(self.packs), AHEAD, told.append)
        loop = Loop(
            network=self.network,
            optimizer=make_optimizer(recipe.optim, self.network),
            recipe=recipe,
            num_steps=recipe.train.steps or 1,
            device=self.device,
            utilization=Utilization(flops=self.mix.flops, peak=device_peak(self.device, recipe.train.precision)),
        )
        steps = loop.steps(ahead, 0)
        try:
            yield self._speed(name, steps, until, compiler) | (
                {} if compiler else {"uncompiled": " ".join(told) or "yes"}
            )
            if compiled:
                yield host_reads(steps, self.device)
                yield from kernels(steps, self.device)
        finally:
            steps.close()  # type: ignore[attr-defined]
            ahead.close()  # type: ignore[attr-defined]

    def _speed(self, name: str, steps: Iterator[StepReport], until: float, compiler: Compiler | None) -> Line:
        waited = 0.0

        def step() -> tuple[int, int, float]:
            nonlocal waited
            report = next(steps)
            waited += report.known["data/wait_s"]
            return self._done(len(self.packs), report.step - 1)

        for _ in range(self.limits.warm):
            step()
        waited = 0.0
        line = self.timed(name, step, until)
        seconds = line["ms"] * line["steps"] / 1e3
        return line | {"waiting": waited / seconds} | ({"compilations": compiler.count} if compiler else {})

    def _done(self, packs: int, number: int) -> tuple[int, int, float]:
        """Samples, real tokens and FLOPs of a step over a pack."""
        lengths = self.mix.lengths[number % packs]
        return (
            len(next(iter(lengths.values()))),
            sum(int(n.sum()) for n in lengths.values()),
            self.mix.step_flops(lengths),
        )

    def _padded(self, name: str, until: float) -> Iterator[Line]:
        """A padded loop: with half as many tokens at once until they fit, uncompiled where it can't be compiled."""
        longest = max(int(np.max(sum(pack.values()))) for pack in self.mix.lengths)
        tokens = self.mix.made.recipe.batch.token_budget * (AT_ONCE if name == "padded" else 1)
        compiled = pin = self.device.type == "cuda"
        while tokens >= longest or name == "padded":
            at_once = max(tokens // longest, 1)
            made = in_turn(self.packs, at_once, pin=pin) if name == "padded" else bucketed(self.packs, tokens, pin=pin)
            try:
                yield self._padded_speed(name, made, until, compiled=compiled) | {"most at once": _most(made)}
                return
            except torch.OutOfMemoryError:
                tokens = 0 if at_once == 1 else tokens // 2
            except Exception as error:
                if not compiled:
                    raise
                compiled = False
                yield {"loop": name, "not compiled": f"{type(error).__name__}: {error}"[:300]}
            free()  # after the error is gone, which holds what did not fit
            if not tokens:
                break
        yield {"loop": name, "not run": "not even one sample at once fits"}

    def _padded_speed(self, name: str, made: Sequence[Sequence[PaddedBatch]], until: float, *, compiled: bool) -> Line:
        recipe = self.mix.made.recipe
        model = PaddedNetwork(self.network, compiled=compiled)
        optimizer = make_optimizer(recipe.optim, self.network)
        turns, before = cycle(made), None
        mean_flops = sum(self._done(len(self.packs), i)[2] for i in range(len(self.packs)))
        mean_flops /= sum(len(pack.sample_ids) for pack in self.packs)
        model.train()

        def step() -> tuple[int, int, float]:
            nonlocal before
            batches = next(turns)
            samples = sum(batch.num_samples for batch in batches)
            optimizer.zero_grad(set_to_none=True)
            losses = []
            for batch in batches:
                with autocast(recipe, self.device):
                    loss: Tensor = model(batch.to(self.device)) / samples
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optim.clip)
            optimizer.step()
            if before is not None:
                float(before)  # of the step before, as a loop that shows its loss without waiting for it
            before = torch.stack(losses).sum()
            return samples, sum(batch.num_tokens for batch in batches), samples * mean_flops

        for _ in range(self.limits.warm):
            step()
        layers, every = self.mix.layers, [batch for batches in made for batch in batches]
        computed = sum(batch.computed(layers) for batch in every)
        share = computed / (sum(layers) * sum(batch.num_tokens for batch in every))
        return self.timed(name, step, until) | {"computed tokens over real": share, "compiled": compiled}

    def timed(self, name: str, step: Callable[[], tuple[int, int, float]], until: float) -> Line:
        """Figures of a loop over the steps that fit.

        Args:
            name: of the loop.
            step: takes a step; its samples, real tokens and FLOPs.
            until: `time.monotonic()` after which no step begins, but the first two.
        """
        settle(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        done: list[tuple[int, int, float]] = []
        began = time.perf_counter()
        while len(done) < 2 or (time.monotonic() < until and not self._enough(len(done), began)):
            done.append(step())
        settle(self.device)
        seconds = time.perf_counter() - began
        samples, tokens, flops = (sum(column) for column in zip(*done, strict=True))
        peak = device_peak(self.device, self.mix.made.recipe.train.precision)
        line: Line = {
            "loop": name,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "steps": len(done),
            "ms": 1e3 * seconds / len(done),
            "samples_per_s": samples / seconds,
            "tokens_per_s": tokens / seconds,
            "mfu": flops / (seconds * peak) if not math.isnan(peak) else None,
            "peak_gb": torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None,
        }
        expected = {d: own["expected_ms"] for d, own in self.mix.expected.items()} if name == "interlace" else {}
        return line | {f"expected_ms_{device}": ms for device, ms in expected.items()}

    def _enough(self, steps: int, began: float) -> bool:
        return steps >= self.limits.steps and time.perf_counter() - began >= self.limits.least_s


def guarded(name: str, lines: Iterable[Line]) -> Iterator[Line]:
    """The lines, and what broke them: other loops are measured all the same."""
    try:
        yield from lines
    except Exception as error:
        traceback.print_exc()
        yield {"loop": name, "failed": f"{type(error).__name__}: {error}"[:300]}
    free()


def free() -> None:
    """Give back the memory of a loop that has ended."""
    gc.collect()
    torch.cuda.empty_cache()


def _most(made: Sequence[Sequence[PaddedBatch]]) -> int:
    """Samples that are computed at once, at most."""
    return max(batch.num_samples for batches in made for batch in batches)


def settle(device: torch.device) -> None:
    """Wait for what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def host_reads(steps: Iterator[StepReport], device: torch.device, count: int = 5) -> Line:
    """How often the host waits for the device in a step, and where; the report's read is one."""
    if device.type != "cuda":
        return {"reads": None, "not run": "a CPU has no device to wait for"}
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(count):
                next(steps)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    waits = [w for w in seen if "synchronizing CUDA operation" in str(w.message)]
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits)
    return {"reads": len(waits) / count, "places": {place: n / count for place, n in places.most_common()}}


def kernels(steps: Iterator[StepReport], device: torch.device) -> Iterator[Line]:
    """The kernels of one step that take longest; first their number, their time and the step's."""
    on_gpu = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    settle(device)
    with torch.profiler.profile(activities=kinds) as profile:
        began = time.perf_counter()
        next(steps)
        settle(device)
        seconds = time.perf_counter() - began
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    events = [e for e in profile.key_averages() if e.device_type == wanted and not e.is_user_annotation]
    rows = [(e.key, e.count, _own_us(e, on_gpu=on_gpu)) for e in events]
    rows.sort(key=lambda row: -row[2])
    busy = sum(us for _, _, us in rows)
    yield {"kernels": sum(n for _, n, _ in rows), "kernel_ms": busy / 1e3, "profiled_step_ms": 1e3 * seconds}
    for name, number, us in rows[:TOP]:
        yield {"kernel": name[:90], "calls": number, "ms": us / 1e3, "share": us / busy}


def _own_us(event: Any, *, on_gpu: bool) -> float:
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)


def verdicts(lines: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """What the aims are held against: useful samples a second over those of the other loops."""
    rates = {line["loop"]: line.get("samples_per_s") for line in lines if "loop" in line}
    own = rates.get("interlace")
    return {f"over {n}": own / rate if own and (rate := rates.get(n)) else None for n in ("padded", "bucketed")}
