"""A reader without shards: packs of the real plan, dealt from the real index; tokens are zeros of the right lengths."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interlace.contract.sample import FieldPack, Pack
from interlace.data.index.records import RecordCodec
from interlace.data.plan.plan import Plan, PlanSettings, Window
from interlace.data.read.reader import Reader
from tests.benchmarks.synthetic.index import load_manifest, load_size
from tests.benchmarks.synthetic.memory import memory
from tests.benchmarks.synthetic.shapes import BUDGET, MODELS

MODEL = "three-encoders"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticReader(Reader):
    """Plans, opens parts and deals as `Reader` does; values of records are made up.

    Args:
        told: folder in which each process keeps its memory after its last window.
    """

    told: str | None = None

    def read(self, window: Window, *, first: int, stop: int, plan: Plan | None = None) -> Iterator[Pack]:
        """The packs of a window at positions `first <= p < stop`, in order."""
        before = memory()
        plan = plan or self.plan()
        packs = plan.packs(window.epoch, window.index, window.num_packs)
        groups = np.unique(np.searchsorted(plan.group_starts, np.concatenate(packs), side="right") - 1).tolist()
        rows = np.concatenate([np.arange(plan.group_starts[g], plan.group_starts[g + 1]) for g in groups])
        measured = [self.manifest.rows(g).tokens for g in groups]
        tokens = {n: np.concatenate([own[n] for own in measured]) for n in self.manifest.fields}
        for position in range(max(first, window.start), min(stop, window.start + len(packs))):
            pack = packs[position - window.start]
            at = np.searchsorted(rows, pack)
            fields = {name: _zeros(own[at]) for name, own in tokens.items()}
            yield Pack(position=position, epoch=window.epoch, sample_ids=pack, fields=fields, targets={})
        if self.told:
            figures = {"before": before, "after": memory()}
            (Path(self.told) / f"{os.getpid()}.json").write_text(json.dumps(figures), encoding="utf-8")


def _zeros(lengths: np.ndarray) -> FieldPack:
    grids = np.stack([lengths, lengths > 0], axis=1).astype(np.int32)
    return FieldPack(values=np.zeros(int(lengths.sum()), np.int32), lengths=lengths, grids=grids)


def open_synthetic(
    folder: Path, *, ranks: int, model: str = "three-encoders", told: str | None = None
) -> SyntheticReader:
    """The reader of an index, for steps of so many packs."""
    return SyntheticReader(
        manifest=load_manifest(folder),
        plan_settings=settings_of(ranks),
        codec=RecordCodec(fields={}, targets={}),
        flops=MODELS[MODEL].flops(load_size(folder).fields),
        training=True,
        told=told,
    )


def settings_of(ranks: int) -> PlanSettings:
    """A step of a pack a rank; windows as recipes have them where nothing is said."""
    return PlanSettings(seed=0, token_budget=BUDGET, global_batch=ranks, window_packs=max(128, ranks))
