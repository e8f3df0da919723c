"""Settings of the optimizer and of its schedule."""

from typing import Literal

from pydantic import Field, model_validator

from interlace.recipe.base import Node


class Optim(Node):
    """Optimizer and schedule."""

    name: Literal["adamw", "adam", "sgd", "muon"] = Field(
        "adamw",
        description="AdamW, Adam, SGD with momentum, or Muon for matrices of layers and AdamW for all else.",
    )
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Rate of a layer over that of the next, nearer to the output."
    )
    weight_decay: float = Field(
        0.05,
        ge=0,
        description="Decay of matrices; gains and biases have none. With `adam`, `sgd` an L2 penalty, else decoupled.",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="First beta of Adam, AdamW (and beside `muon`); SGD's momentum.")
    beta2: float = Field(0.98, ge=0, lt=1, description="Adam's and AdamW's second beta.")
    momentum: float = Field(0.95, ge=0, lt=1, description="`muon`: of the matrices of layers.")
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt", "step", "wsd", "plateau"] = Field(
        "cosine", description="Course of the rate after the warm-up."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps over which the rate rises from 0.")
    final_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="`cosine`, `linear`, `wsd`: the rate at the end over the peak; `plateau`: the least.",
    )
    step_share: float = Field(0.3, gt=0, le=1, description="`step`: share of the steps from one fall to the next.")
    gamma: float = Field(0.1, gt=0, lt=1, description="`step`, `plateau`: what a fall multiplies the rate by.")
    decay_share: float = Field(
        0.2, gt=0, le=1, description="`wsd`: share of the steps, the last, in which the rate falls."
    )
    patience: int = Field(5, ge=0, description="`plateau`: evaluations without improvement that bring no fall yet.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the whole gradient.")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of a running average of the weights, which is then the model that is evaluated and kept"
        " (0.995 looks back about 200 steps); 0 keeps none.",
    )
    task_weighting: Literal["fixed", "uncertainty"] = Field(
        "fixed", description="`uncertainty`: beside their weights, tasks get learned ones (Kendall et al. 2018)."
    )

    @model_validator(mode="after")
    def _of_schedule(self) -> "Optim":
        used = {
            "step_share": ("step",),
            "gamma": ("step", "plateau"),
            "decay_share": ("wsd",),
            "patience": ("plateau",),
        }
        for name, schedules in used.items():
            if self.schedule not in schedules and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect with `schedule: {self.schedule}`")
        if self.name != "muon" and self.momentum != type(self).model_fields["momentum"].default:
            raise ValueError(f"`momentum` has no effect with `name: {self.name}`; SGD's is `beta1`")
        if self.schedule == "wsd" and self.warmup + self.decay_share > 1:
            raise ValueError(
                f"`warmup` and `decay_share` must add to at most 1, but {self.warmup} + {self.decay_share}"
            )
        return self
