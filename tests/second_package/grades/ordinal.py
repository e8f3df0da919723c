"""Ordinal regression by the questions whether a grade is above the first, the second, ... (Cao et al. 2020, CORAL)."""

# S samples, K grades

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from grades.plugin import OrdinalTask
from interlace.contract.batch import Batch, move
from interlace.model.network import Outputs
from interlace.tasks.base import ColumnType, Context, State, Task


class Ordinal(Task):
    """One score for each sample and a threshold between neighbouring grades."""

    main_metric = "distance"
    higher_is_better = False

    def __init__(self, settings: OrdinalTask, context: Context) -> None:
        super().__init__()
        self.name = context.name
        self.grades = [int(grade) for grade in context.fitted["grades"]]
        self.score = nn.Linear(context.model.dim, 1, bias=False)
        self.thresholds = nn.Parameter(torch.linspace(1, -1, len(self.grades) - 1))

    def _above(self, outputs: Outputs) -> Tensor:
        """Logits that the grade is above each but the last, float32 `[S, K - 1]`."""
        return self.score(outputs.sample_SD.float()).float() + self.thresholds

    def _losses(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and place of each sample with a target."""
        target = batch.targets[self.name]
        logits = self._above(outputs)[target.present]
        wanted = move((target.values[:, None] > torch.arange(len(self.grades) - 1)).float(), logits.device)
        return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1), target.values

    def count(self, batch: Batch) -> int:
        """Samples with a grade."""
        return int(batch.targets[self.name].present.sum())

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Sum of the entropies of all questions; zero with gradients where there is no target."""
        return self._losses(outputs, batch)[0].sum()

    @property
    def prediction_types(self) -> Mapping[str, ColumnType]:
        """The grade, and how sure."""
        return {"": "double", "probability": "double"}

    def _chances(self, outputs: Outputs) -> Tensor:
        """Chance of each grade `[S, K]`."""
        above = self._above(outputs).detach().double().sigmoid().cpu()
        edges = torch.cat([torch.ones(len(above), 1), above, torch.zeros(len(above), 1)], dim=1)
        return (edges[:, :-1] - edges[:, 1:]).clamp(min=0)

    def predict(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The likeliest grade."""
        chance, place = self._chances(outputs).max(1)
        rows = zip(place.tolist(), chance.tolist(), strict=True)
        return [{"": float(self.grades[i]), "probability": sure} for i, sure in rows]

    def state(self, outputs: Outputs, batch: Batch) -> State:
        """Sums over the samples with a grade."""
        losses, places = self._losses(outputs, batch)
        said = self._chances(outputs).argmax(1)[batch.targets[self.name].present.cpu()]
        away = (said - places.cpu()).abs()
        return {
            "count": torch.tensor(len(away)),
            "loss": losses.detach().double().sum().cpu(),
            "distance": away.sum(),
            "right": (away == 0).sum(),
        }

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        """`loss`, `distance` (grades between the true and the predicted one) and `accuracy`, each a mean."""
        count = state["count"].double()
        names = {"loss": "loss", "distance": "distance", "accuracy": "right"}
        return {name: float(state[key] / count) for name, key in names.items()}
