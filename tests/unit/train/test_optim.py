"""Optimizers, schedules and layer-wise rates against torch's own."""

import copy
import math
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from interlace.contract.errors import RecipeError
from interlace.recipe.load import parse_recipe
from interlace.recipe.optim import Optim
from interlace.train.muon import hidden_matrices, orthogonalised
from interlace.train.optim import (
    SCHEDULES,
    after_evaluation,
    layer_factors,
    learning_rate,
    make_optimizer,
    set_rate,
    update_unless,
)
from tests.networks import build

PEAK, STEPS, WARM = 0.5, 50, 10


def settings(**given: Any) -> Optim:
    return Optim.model_validate({"lr": PEAK, "warmup": WARM / STEPS, "final_share": 0.1, **given})


def one_parameter(rate: float = PEAK) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(scheduler: torchs.LRScheduler, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    """The rates of the first steps under one of torch's schedulers."""
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def reference(name: str, optimizer: torch.optim.Optimizer) -> torchs.LRScheduler:
    """Torch's scheduler of what follows the warm-up."""
    after = STEPS - WARM
    if name == "cosine":
        return torchs.CosineAnnealingLR(optimizer, after, eta_min=0.05)
    if name == "linear":
        return torchs.LinearLR(optimizer, 1.0, 0.1, after)
    if name == "step":
        return torchs.StepLR(optimizer, step_size=15, gamma=0.3)
    if name == "inverse_sqrt":
        return torchs.LambdaLR(optimizer, lambda i: ((WARM + 1 + i) / (WARM + 1)) ** -0.5)
    if name == "wsd":
        parts = [torchs.ConstantLR(optimizer, 1.0), torchs.LinearLR(optimizer, 1.0, 0.1, 20)]
        return torchs.SequentialLR(optimizer, parts, [after - 20])
    return torchs.ConstantLR(optimizer, 1.0)


OWN: dict[str, dict[str, float]] = {"step": {"step_share": 0.3, "gamma": 0.3}, "wsd": {"decay_share": 0.4}}


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's own, inside SequentialLR
def test_schedules_equal_torchs_own(name: str) -> None:
    ours = [learning_rate(settings(schedule=name, **OWN.get(name, {})), s, STEPS) for s in range(STEPS)]
    optimizer = one_parameter()
    theirs = rates(reference(name, optimizer), optimizer, STEPS - WARM)
    assert ours[WARM:] == pytest.approx(theirs, rel=1e-6)
    assert ours[:WARM] == pytest.approx([PEAK * (s + 1) / (WARM + 1) for s in range(WARM)])
    assert (len(set(ours[WARM:])) > 1) == (name not in ("constant", "plateau"))


def test_inverse_sqrt_is_that_of_vaswani() -> None:
    ours = [learning_rate(settings(schedule="inverse_sqrt"), s, STEPS) for s in range(STEPS)]
    warm = WARM + 1
    vaswani = [min((s + 1) ** -0.5, (s + 1) * warm**-1.5) for s in range(STEPS)]
    assert [x / PEAK for x in ours] == pytest.approx([x / warm**-0.5 for x in vaswani])


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("patience", [0, 2])
def test_plateau_equals_torchs_own(higher_is_better: bool, patience: int) -> None:
    values = [0.5, 0.6, 0.55, 0.6, 0.59, 0.7, 0.7, 0.7, 0.7, 0.7, math.nan, 0.7, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    chosen = settings(schedule="plateau", patience=patience, gamma=0.5, final_share=0.1)
    optimizer = one_parameter()
    mode: Any = "max" if higher_is_better else "min"
    theirs = torchs.ReduceLROnPlateau(
        optimizer, mode, factor=0.5, patience=patience, threshold=0, min_lr=0.1 * PEAK, threshold_mode="abs"
    )
    scale, waited, best, seen = 1.0, 0, -math.inf if higher_is_better else math.inf, []
    for value in values:
        improved = value > best if higher_is_better else value < best
        best = value if improved else best
        scale, waited = after_evaluation(chosen, scale, waited, improved=improved)
        theirs.step(value)
        assert scale * PEAK == pytest.approx(optimizer.param_groups[0]["lr"])
        seen.append(scale)
    assert len(set(seen)) >= 3
    assert after_evaluation(settings(), 1.0, 0, improved=False) == (1.0, 0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizers_equal_torchs_own(name: str) -> None:
    """Three steps on a matrix, which decays, and a vector, which does not; torch's without fused kernels."""
    chosen = settings(name=name, weight_decay=0.1, beta1=0.8, beta2=0.9)
    first = torch.nn.Linear(4, 3)
    second = torch.nn.Linear(4, 3)
    second.load_state_dict(first.state_dict())
    ours = make_optimizer(chosen, first)
    groups = [{"params": [second.weight], "weight_decay": 0.1}, {"params": [second.bias], "weight_decay": 0.0}]
    theirs: torch.optim.Optimizer
    if name == "sgd":
        theirs = torch.optim.SGD(groups, lr=PEAK, momentum=0.8, nesterov=True, foreach=False)
    else:
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        theirs = kind(groups, lr=PEAK, betas=(0.8, 0.9), foreach=False)
    before = first.weight.clone()
    for _ in range(3):
        x = torch.randn(5, 4)
        for layer, optimizer in ((first, ours), (second, theirs)):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(first.state_dict(), second.state_dict())
    assert not torch.equal(before, first.weight)


def muon_step(network: torch.nn.Module, grads: list[dict[str, torch.Tensor]], **chosen: Any) -> dict[str, torch.Tensor]:
    """The network's parameters after a step of Muon with each of the gradients (zeros where none is given)."""
    optimizer = make_optimizer(settings(name="muon", weight_decay=0.1, **chosen), network)
    for given in grads:
        for name, parameter in network.named_parameters():
            parameter.grad = given.get(name, torch.zeros_like(parameter)).clone()
        optimizer.step()
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def test_muon_moves_matrices_as_torchs_own_and_the_rest_as_adamw() -> None:
    network = build("mid", field_layers=1, joint_layers=1)
    twin = build("mid", field_layers=1, joint_layers=1)
    twin.load_state_dict(network.state_dict())
    named = dict(twin.named_parameters())
    grads = [{name: torch.randn_like(p) for name, p in named.items()} for _ in range(3)]
    found = muon_step(network, grads, momentum=0.9)

    parts: dict[str, list[torch.nn.Parameter]] = {}
    for name, p in named.items():
        if (".layers." in name or ".convolutions." in name) and p.ndim >= 2:
            pieces = p.detach().flatten(1).chunk(3 if name.endswith(".qkv.weight") else 1)
            parts[name] = [torch.nn.Parameter(x.clone()) for x in pieces]
    theirs = torch.optim.Muon(
        [x for copies in parts.values() for x in copies],
        lr=PEAK, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    rest = [p for n, p in named.items() if n not in parts]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98))
    for given in grads:
        for name, p in named.items():
            p.grad = given[name].clone()
        for name, copies in parts.items():
            for piece, grad in zip(copies, given[name].flatten(1).chunk(len(copies)), strict=True):
                piece.grad = grad.clone()
        theirs.step()  # type: ignore[no-untyped-call]
        adam.step()
    expected = {n: torch.cat([x.detach() for x in parts[n]]) if n in parts else p.detach() for n, p in named.items()}
    for name, value in found.items():
        torch.testing.assert_close(value.flatten(), expected[name].flatten(), msg=name)
    assert {p.ndim for n, p in named.items() if n in parts} == {2, 4}
    assert any(len(copies) == 3 for copies in parts.values())


def test_muon_leaves_what_a_step_does_not_see() -> None:
    """An absent field has a gradient of zeros; momentum must not carry its matrices on."""
    network = build("mid", field_layers=1, joint_layers=1)
    names = [n for n, _ in network.named_parameters() if "series.layers" in n and n.endswith("mlp_in.weight")]
    (name,) = names
    seen = {name: torch.randn_like(dict(network.named_parameters())[name])}
    optimizer = make_optimizer(settings(name="muon", weight_decay=0.0), network)
    parameter = dict(network.named_parameters())[name]
    parameter.grad = seen[name]
    before = parameter.detach().clone()
    optimizer.step()
    after = parameter.detach().clone()
    assert not torch.equal(before, after)
    parameter.grad = torch.zeros_like(parameter)
    kept = optimizer.state[parameter]["momentum"].clone()
    optimizer.step()
    assert torch.equal(parameter.detach(), after)
    assert torch.equal(optimizer.state[parameter]["momentum"], kept)


def test_orthogonalised_matrices_keep_their_directions() -> None:
    """Singular vectors stay, singular values come near 1 (Jordan's iteration: 0.7 to 1.2), tall or wide."""
    for shape in ((48, 96), (96, 48), (32, 192)):  # square ones of random numbers have values near 0
        matrix = torch.randn(shape)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ orthogonalised(matrix).float() @ v.T
        values = inner.diagonal()
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3
        assert float((inner - values.diag()).abs().max()) < 0.08
    assert not orthogonalised(torch.zeros(4, 8)).any()


def test_muon_takes_layers_and_convolutions_only() -> None:
    network = build("mid", field_layers=1, joint_layers=1)
    named: dict[torch.Tensor, str] = {p: n for n, p in network.named_parameters()}
    found = {named[p]: count for p, count in hidden_matrices(network).items()}
    assert all(".layers." in n or ".convolutions." in n for n in found)
    assert {n for n in named.values() if ".layers." in n and n.endswith("weight") and "norm" not in n} <= set(found)
    assert {count for n, count in found.items() if "qkv" in n} == {3}


@pytest.mark.parametrize(("fusion", "depths"), [("early", 3), ("mid", 5), ("weighted_sum", 2), ("cross_attention", 5)])
def test_rates_fall_by_one_factor_a_layer_towards_the_input(fusion: str, depths: int) -> None:
    network = build(fusion, field_layers=2, joint_layers=3)
    names = [name for name, _ in network.named_parameters()]
    factor = layer_factors(names, 0.5)
    assert {factor(n) for n in names} == {0.5**i for i in range(depths + 2)}
    assert all(factor(n) == 0.5 ** (depths + 1) for n in names if n.startswith(("embeddings", "clock")))
    assert all(factor(n) == 1.0 for n in names if n.startswith("heads"))
    encoders = [n for n in names if n.startswith("fusion.encoders") and ".layers.1." in n]
    assert all(factor(n) == 2 * factor(n.replace(".layers.1.", ".layers.0.")) for n in encoders)
    assert bool(encoders) == (fusion != "early")
    assert all(layer_factors(names, 1.0)(n) == 1.0 for n in names)


def test_factors_of_a_parameters_rate_multiply() -> None:
    network = build()
    network.embeddings.requires_grad_(False)
    optimizer = make_optimizer(
        settings(layer_decay=0.5), network, [lambda n: 0.1 if "series" in n else 1.0, lambda n: 3.0]
    )
    set_rate(optimizer, 2.0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {n: rate[id(p)] for n, p in network.named_parameters() if p.requires_grad}
    assert len(found) == len(rate)
    assert not any(n.startswith("embeddings") for n in found)
    mine = layer_factors(found, 0.5)
    assert found == pytest.approx({n: 2.0 * mine(n) * (0.1 if "series" in n else 1.0) * 3.0 for n in found})
    assert len(set(found.values())) > 4


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"gamma": 0.5}, "`gamma` has no effect with `schedule: cosine`"),
        ({"schedule": "step", "patience": 2}, "`patience` has no effect with `schedule: step`"),
        ({"schedule": "wsd", "warmup": 0.5, "decay_share": 0.6}, "must add to at most 1"),
        ({"schedule": "plateau"}, "`data.validation` is not given"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, Any], error: str) -> None:
    tree = {
        "name": "x",
        "data": {"train": {"paths": ["x"]}},
        "fields": {"x": {"modality": "text", "column": "x"}},
        "tasks": {"y": {"task": "classification", "column": "y"}},
        "train": {"steps": 1},
    }
    with pytest.raises(RecipeError, match=error):
        parse_recipe({**tree, "optim": given})
    parse_recipe(tree)


def drawn_gradients(network: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for number, parameter in enumerate(network.parameters()):
        absent = number % 5 == 0  # as of a field that the step lacks
        parameter.grad = torch.randn(parameter.shape, generator=generator) * (0.0 if absent else 1.0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_an_update_that_kernels_skip_by_themselves_changes_nothing(name: str) -> None:
    """`found_inf` is what `update_unless` gives a GPU; the kernels of a CPU know it too."""
    (plain, own), (guarded, optimizer) = (
        (network, make_optimizer(settings(name=name, lr=0.01, weight_decay=0.1), network))
        for network in (build(seed=3), build(seed=3))
    )
    set_rate(own, 0.01)
    set_rate(optimizer, 0.01)
    for seed in (1, 2):
        drawn_gradients(plain, seed)
        update_unless(torch.tensor(False), own)
        drawn_gradients(guarded, seed)
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
        assert all(map(torch.equal, plain.parameters(), guarded.parameters()))
        before = [p.detach().clone() for p in guarded.parameters()], copy.deepcopy(optimizer.state_dict()["state"])
        for parameter in guarded.parameters():
            parameter.grad = torch.full_like(parameter, math.nan)
        optimizer.found_inf = torch.tensor(1.0)
        optimizer.step()
        after = [p.detach() for p in guarded.parameters()], optimizer.state_dict()["state"]
        torch.testing.assert_close(after, before, atol=0, rtol=0)
        update_unless(torch.tensor(True), own)
        assert all(map(torch.equal, plain.parameters(), guarded.parameters()))
    assert any(not torch.equal(p, q) for p, q in zip(plain.parameters(), build(seed=3).parameters(), strict=True))
