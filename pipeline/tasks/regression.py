"""Regression: a fused head, a light head on each field's own state, and errors in the targets' own units.

Targets come standardised by the training rows (`data.index.targets`), NaN where missing; everything here counts by
value, so a sample with one of two numbers counts for that one alone.
"""

# S samples, K columns, D width, B bins

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from interlace.contract.batch import Batch, TargetBatch, move
from interlace.contract.charts import Chart, Density
from interlace.model.fusion import key
from interlace.model.network import Outputs
from interlace.recipe import tasks as recipe
from interlace.tasks.base import ColumnType, Context, State, Task
from interlace.tasks.classification import apply_head

NUM_BINS = 48
"""Bins of true and predicted values between the lowest and the highest of training."""


class RegressionTask(Task):
    """Predict one or several numbers.

    Args:
        settings: the task's part of the recipe.
        context: `fitted` holds `means`, `stds`, `lows` and `highs` of the columns in training.
    """

    main_metric = "loss"
    higher_is_better = False

    def __init__(self, settings: recipe.RegressionTask, context: Context) -> None:
        super().__init__()
        self.name = context.name
        self.settings = settings
        self.means_K, self.stds_K, self.lows_K, self.highs_K = (
            torch.tensor(context.fitted[name], dtype=torch.float64) for name in ("means", "stds", "lows", "highs")
        )
        dim, columns = context.model.dim, len(settings.columns)
        self.head = nn.Linear(dim, columns)
        lit = context.specs if settings.field_loss else ()
        self.field_heads = nn.ModuleDict({key(name): nn.Linear(dim, columns) for name in lit})

    def count(self, batch: Batch) -> int:
        """Values that are there, over all columns."""
        return int((~batch.targets[self.name].values.isnan()).sum())

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Loss of the fused head plus `field_loss` times the mean loss of the present fields' heads, per value."""
        wanted_SK = move(self._wanted(batch.targets[self.name]), outputs.sample_SD.device)
        total = self._loss(apply_head(self.head, outputs.sample_SD), wanted_SK).sum()
        if self.field_heads:
            states = [outputs.fields[name.removeprefix(key(""))] for name in self.field_heads]
            heads = zip(self.field_heads.values(), states, strict=True)
            loss_FS = torch.stack([self._loss(apply_head(h, s.pooled_SD), wanted_SK).sum(1) for h, s in heads])
            present_FS = torch.stack([s.present_S for s in states]).float()
            mean_S = (loss_FS * present_FS).sum(0) / present_FS.sum(0).clamp(min=1)
            total = total + self.settings.field_loss * mean_S.sum()
        return total

    @property
    def prediction_types(self) -> Mapping[str, ColumnType]:
        """The number of each column."""
        return dict.fromkeys(self._keys(), "double")

    def predict(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The number in its own unit; of several columns each under its name."""
        value_SK = self._in_own_unit(apply_head(self.head, outputs.sample_SD).detach())
        return [dict(zip(self._keys(), row, strict=True)) for row in value_SK.tolist()]

    def _keys(self) -> tuple[str, ...]:
        return self.settings.columns if len(self.settings.columns) > 1 else ("",)

    def state(self, outputs: Outputs, batch: Batch) -> State:
        """Sums over the values of each column `[K]`, standardised, and how often which value met which.

        `loss`, `error`, `square`, `value`, `value_square` are float64; `count` int64; `density` int64 `[K, B, B]`.
        """
        wanted_SK = move(self._wanted(batch.targets[self.name]), outputs.sample_SD.device)
        said_SK = apply_head(self.head, outputs.sample_SD).detach()
        there_SK = (~wanted_SK.isnan()).cpu()
        y_SK, error_SK = wanted_SK.double().cpu().nan_to_num(), (said_SK - wanted_SK).double().cpu().nan_to_num()
        bins = [self._bins(self._in_own_unit(values)) for values in (wanted_SK.nan_to_num(), said_SK)]
        cell_SK = bins[0] * NUM_BINS + bins[1]
        density = [torch.bincount(c[t], minlength=NUM_BINS**2) for c, t in zip(cell_SK.T, there_SK.T, strict=True)]
        return {
            "loss": self._loss(said_SK, wanted_SK).double().sum(0).cpu(),
            "count": there_SK.sum(0),
            "error": error_SK.abs().sum(0),
            "square": error_SK.square().sum(0),
            "value": y_SK.sum(0),
            "value_square": y_SK.square().sum(0),
            "density": torch.stack(density).view(-1, NUM_BINS, NUM_BINS),
        }

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        """`loss` (standardised, per value), `mae`, `rmse`, `r2`: means over columns; of several also `mae_<column>` ...

        R2 is the coefficient of determination over all values seen: 1 - squared error over variance; nan where they do
        not differ.
        """
        count_K = state["count"]
        per_value = {n: state[n] / count_K for n in ("loss", "error", "square", "value", "value_square")}
        variance_K = per_value["value_square"] - per_value["value"].square()
        r2_K = 1 - per_value["square"] / variance_K
        columns = {
            "mae": per_value["error"] * self.stds_K,
            "rmse": per_value["square"].sqrt() * self.stds_K,
            "r2": torch.where(variance_K > 1e-12, r2_K, math.nan),
        }
        found = {"loss": float(state["loss"].sum() / count_K.sum())}
        found |= {name: float(value_K.nanmean()) for name, value_K in columns.items()}
        if len(self.settings.columns) > 1:
            for i, column in enumerate(self.settings.columns):
                found |= {f"{name}_{column}": float(value_K[i]) for name, value_K in columns.items()}
        return found

    def charts(self, state: Mapping[str, Any]) -> dict[str, Chart]:
        """`scatter` (of several columns `scatter-<column>`): true values against predicted ones."""
        columns = self.settings.columns
        return {
            "scatter" if len(columns) == 1 else f"scatter-{column}": Density(
                counts=state["density"][i].numpy(),
                low=float(self.lows_K[i]),
                high=float(self.highs_K[i]),
                unit=column,
            )
            for i, column in enumerate(columns)
            if int(state["count"][i])
        }

    def _wanted(self, target: TargetBatch) -> Tensor:
        """Standardised targets, float32 `[S, K]` on the CPU, NaN where missing."""
        wanted_SK = target.values.new_full((len(target.present), len(self.settings.columns)), math.nan)
        wanted_SK[target.present] = target.values.view(-1, wanted_SK.shape[1])
        return wanted_SK

    def _loss(self, said_SK: Tensor, wanted_SK: Tensor) -> Tensor:
        """Loss of each value, zero where it is missing: the squared error, or that of Huber (1964)."""
        said_SK = torch.where(wanted_SK.isnan(), 0.0, said_SK)
        wanted_SK = wanted_SK.nan_to_num()
        if self.settings.loss == "mse":
            return functional.mse_loss(said_SK, wanted_SK, reduction="none")
        return functional.huber_loss(said_SK, wanted_SK, reduction="none", delta=self.settings.delta)

    def _in_own_unit(self, value_SK: Tensor) -> Tensor:
        """Standardised numbers in the unit of the column, float64 on the CPU."""
        return value_SK.double().cpu() * self.stds_K + self.means_K

    def _bins(self, value_SK: Tensor) -> Tensor:
        share_SK = (value_SK - self.lows_K) / (self.highs_K - self.lows_K)
        return (share_SK * NUM_BINS).floor().clamp(0, NUM_BINS - 1).long()
