"""Training on a GPU computes what training on a CPU does."""

import dataclasses

import numpy as np
import pytest
import torch

from interlace.contract.errors import NonFiniteLossError
from interlace.model.fusions import FUSIONS as ALL_FUSIONS
from interlace.tasks import TASKS
from interlace.train.compile import compile_layers, lacking
from tests.gpu.runs import CPU, STEPS, Run, losses_of_a_cpu
from tests.gpu.stored import FUSIONS, Stored

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("fusion", FUSIONS)
def test_losses_of_20_steps_equal_those_of_a_cpu(fusion: str, stored: Stored, device: torch.device) -> None:
    there = Run(stored, stored.made(fusion), device).to(STEPS)
    assert there.losses == pytest.approx(losses_of_a_cpu(stored, fusion), abs=1e-4, rel=1e-4)
    assert len(there.losses) == STEPS
    assert there.losses[-1] < there.losses[0]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_losses_in_bf16_stay_near_those_in_fp32(fusion: str, stored: Stored, device: torch.device) -> None:
    """Attention is another kernel then."""
    there = Run(stored, stored.made(fusion, "train.precision=bf16"), device).to(STEPS)
    assert there.losses == pytest.approx(losses_of_a_cpu(stored, fusion), rel=0.03)
    assert there.losses != losses_of_a_cpu(stored, fusion)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adam", "sgd"])
def test_every_optimizer_gives_the_losses_of_a_cpu(optimizer: str, stored: Stored, device: torch.device) -> None:
    made = stored.made("mid", f"optim.name={optimizer}")
    here, there = Run(stored, made, CPU).to(STEPS), Run(stored, made, device).to(STEPS)
    rel = 0.02 if optimizer == "muon" else 1e-4  # Muon orthogonalises in bf16
    assert there.losses == pytest.approx(here.losses, abs=1e-4, rel=rel)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adam", "sgd"])
def test_a_step_that_is_not_finite_leaves_weights_as_they_were(
    optimizer: str, stored: Stored, device: torch.device
) -> None:
    made = stored.made("mid", f"optim.name={optimizer}")
    run = Run(stored, made, device).to(3)
    before = {name: value.clone() for name, value in run.loop.network.state_dict().items()}
    packs = list(stored.packs(5))
    poisoned = packs[3].fields["curve"]
    poisoned = dataclasses.replace(poisoned, values=np.full_like(poisoned.values, np.inf))
    packs[3] = dataclasses.replace(packs[3], fields={**packs[3].fields, "curve": poisoned})
    with pytest.raises(NonFiniteLossError, match="step 4: loss"):
        run.to(5, packs)
    assert all(torch.equal(value, before[name]) for name, value in run.loop.network.state_dict().items())


def test_compiled_layers_give_the_losses_of_a_cpu(stored: Stored, device: torch.device) -> None:
    if device.type == "cpu" or (lack := lacking(device)) is not None:
        pytest.skip("nothing is compiled in a rehearsal" if device.type == "cpu" else f"torch.compile needs {lack}")
    made = stored.made("mid")
    there = Run(stored, made, device)
    compiler = compile_layers(there.loop.network, True, device, lambda text: None)
    there.to(STEPS)
    assert there.losses == pytest.approx(losses_of_a_cpu(stored, "mid"), abs=1e-4, rel=1e-4)
    assert compiler is not None
    assert compiler.count > 0


def test_every_fusion_and_every_task_takes_part(stored: Stored) -> None:
    assert {fusion.partition(" by ")[0] for fusion in FUSIONS} == set(ALL_FUSIONS)
    assert {task.task for task in stored.made("mid").recipe.tasks.values()} == set(TASKS)
    assert stored.made("mid").recipe.model.dropout == 0
