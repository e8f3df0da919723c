"""Two workers (gloo, one process each, without Ray) compute what one computes, with DDP and with FSDP2."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from interlace.contract.errors import CheckpointError, StartError
from interlace.recipe.identity import to_yaml
from interlace.recipe.load import parse_recipe
from interlace.recipe.start import pin
from interlace.train.checkpoint import MODEL, OPTIMIZER, verify
from interlace.train.loop import Losses
from interlace.train.parallel import distribute, holds_shards
from interlace.train.start import prefixes, start
from interlace.train.tensors import join_parts, read_weights
from tests.networks import FUSIONS, SPECS, build, draw_batch
from tests.ranks import (
    FROZEN,
    HALF,
    LATER,
    NAMES,
    RARE,
    Case,
    make_network,
    packs,
    recipe,
    run,
    state,
    together,
)

CASES = {
    "ddp": Case(parallel="ddp"),
    "fsdp": Case(parallel="fsdp", save="parts"),
    "fsdp resumed": Case(parallel="fsdp", first=HALF, last=LATER, load="parts"),
    "fsdp from one worker": Case(parallel="fsdp", first=HALF, last=LATER, load="whole"),
    "fsdp bf16": Case(parallel="fsdp", last=2, precision="bf16"),
    "fsdp bf16 recomputed": Case(parallel="fsdp", last=2, precision="bf16", recompute=True),
    "ddp rare": Case(parallel="ddp", last=3, rare=True),
    "fsdp rare": Case(parallel="fsdp", last=3, rare=True),
    "fsdp numbers": Case(parallel="fsdp", last=3, fusion="weighted_sum"),
    "fsdp cross-attention": Case(parallel="fsdp", last=2, fusion="cross_attention"),
    "fsdp bottleneck": Case(parallel="fsdp", last=2, fusion="bottleneck"),
    "fsdp muon": Case(parallel="fsdp", last=4, optimizer="muon"),
    "fsdp muon unread": Case(parallel="fsdp", last=4, optimizer="muon", unread=True),
    "ddp one pack each": Case(parallel="ddp", last=4, global_batch=2, fickle=True),
    "fsdp copies": Case(parallel="fsdp", last=3, shard_over=1),
    "fsdp bf16 half": Case(parallel="fsdp", last=2, precision="bf16", half=True),
    "ddp frozen": Case(parallel="ddp", last=3, frozen=True),
    "fsdp frozen": Case(parallel="fsdp", last=3, frozen=True, recompute=True),
    "ddp traced": Case(parallel="ddp", last=3, traced=True),
    "fsdp traced": Case(parallel="fsdp", last=3, traced=True, recompute=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Losses and weights of one worker (by case without `parallel`), what the two ranks found, and their folder."""

    folder: Path
    alone: dict[str, list[float]]
    weights: dict[str, torch.Tensor]
    found: list[dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("parallel")
    torch.set_num_threads(1)
    whole, losses, _ = run(Case(parallel="ddp", save="whole"), folder)
    alone = {
        "mid": losses,
        "rare": run(CASES["fsdp rare"], folder).losses,
        "numbers": run(CASES["fsdp numbers"], folder).losses,
        "cross-attention": run(CASES["fsdp cross-attention"], folder).losses,
        "bottleneck": run(CASES["fsdp bottleneck"], folder).losses,
        "bf16": run(CASES["fsdp bf16"], folder).losses,
        "frozen": run(CASES["ddp frozen"], folder).losses,
        "muon": run(CASES["fsdp muon"], folder).losses,
        "one pack each": run(CASES["ddp one pack each"], folder).losses,
    }
    return Results(
        folder=folder,
        alone=alone,
        weights={k: v.clone() for k, v in whole.network.state_dict().items()},
        found=together(CASES, folder),
    )


def losses_of(results: Results, name: str) -> list[float]:
    both = [found[name]["losses"] for found in results.found]
    assert both[0] == both[1], "ranks report different losses"
    assert len(both[0]) == CASES[name].last - CASES[name].first
    return list(both[0])


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_workers_equal_one_over_20_steps(results: Results, name: str) -> None:
    assert losses_of(results, name) == pytest.approx(results.alone["mid"], abs=1e-5)
    weights = safetensors.torch.load_file(results.folder / f"{name}.weights")
    assert weights.keys() == results.weights.keys()
    assert max(float((weights[k] - results.weights[k]).abs().max()) for k in weights) < 1e-4
    sharded, number = results.found[1][name]["sharded"], results.found[1][name]["all"]
    assert sharded == (number if name == "fsdp" else 0)
    assert results.alone["mid"][0] - results.alone["mid"][-1] > 0.01, "nothing was learned"


def test_a_sharded_checkpoint_goes_on_with_any_number_of_workers(results: Results) -> None:
    uninterrupted = losses_of(results, "fsdp")
    assert losses_of(results, "fsdp resumed") == uninterrupted[HALF:LATER]
    alone = run(Case(parallel="ddp", first=HALF, last=LATER, load="parts"), results.folder).losses
    assert alone == pytest.approx(uninterrupted[HALF:LATER], abs=1e-5)
    assert verify(results.folder / "parts") == state(HALF)
    assert not (results.folder / "parts" / MODEL).exists()
    assert len(list((results.folder / "parts").glob("*-of-00002.safetensors"))) == 4


def test_a_rank_holds_its_rows_only(results: Results) -> None:
    """Adam keeps two numbers for each weight: one on each of two ranks, fresh or read from a checkpoint.

    Muon keeps one for weights of layers.
    """
    shares = {name: [found[name]["held"] for found in results.found] for name in CASES}
    assert all(0.5 < share < 0.7 for name in ("fsdp muon", "fsdp muon unread") for share in shares.pop(name))
    del shares["fsdp copies"]
    for name in shares:
        case = CASES[name]
        assert shares[name] == pytest.approx([1.0, 1.0] if case.parallel == "fsdp" else [2.0, 2.0], abs=0.1)
    assert {CASES[name].load for name in shares} == {None, "parts", "whole"}


def test_a_whole_checkpoint_goes_on_sharded(results: Results) -> None:
    assert losses_of(results, "fsdp from one worker") == pytest.approx(results.alone["mid"][HALF:LATER], abs=1e-5)


@pytest.mark.parametrize("name", ["ddp rare", "fsdp rare"])
def test_a_rank_that_never_sees_a_field_hangs_nobody(results: Results, name: str) -> None:
    assert losses_of(results, name) == pytest.approx(results.alone["rare"], abs=1e-5)
    seen = [sum(int(p.fields[RARE].lengths.sum()) for p in packs(CASES[name], rank, 2)) for rank in (0, 1)]
    assert seen[0] > 0
    assert seen[1] == 0


def test_a_static_graph_gives_the_losses_of_one_worker_whatever_a_pack_lacks(results: Results) -> None:
    """Told to torch where a rank has one pack a step; fields come and go from pack to pack."""
    case = CASES["ddp one pack each"]
    assert losses_of(results, "ddp one pack each") == pytest.approx(results.alone["one pack each"], abs=1e-5)
    for rank in (0, 1):
        seen = [bool(p.fields[RARE].lengths.any()) for p in packs(case, rank, 2)][: case.last]
        assert seen == [rank == 0, rank == 1] * 2


def test_copies_of_the_shards_stay_alike(results: Results) -> None:
    """Groups of one rank each: every rank holds all rows, and gradients are averaged over the groups."""
    assert losses_of(results, "fsdp copies") == pytest.approx(results.alone["mid"][:3], abs=1e-5)
    found = results.found[0]["fsdp copies"]
    assert found["sharded"] == found["all"]
    assert found["held"] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", ["ddp traced", "fsdp traced"])
def test_layers_that_torch_compile_traces_give_the_losses_of_one_worker(results: Results, name: str) -> None:
    assert losses_of(results, name) == pytest.approx(results.alone["mid"][:3], abs=1e-5)
    assert all(2 <= found[name]["compiled"] <= 4 for found in results.found)


def test_mixed_precision_and_recomputed_activations_are_the_same_under_fsdp(results: Results) -> None:
    losses = losses_of(results, "fsdp bf16")
    assert losses == losses_of(results, "fsdp bf16 recomputed")
    assert losses[0] == pytest.approx(results.alone["bf16"][0], abs=1e-6)
    assert losses == pytest.approx(results.alone["bf16"], abs=1e-2)  # rounding to bf16 amplifies what order changes
    assert losses[0] != pytest.approx(results.alone["mid"][0], abs=1e-6), "this was fp32"
    gathered_in_half = losses_of(results, "fsdp bf16 half")
    assert gathered_in_half == pytest.approx(losses, abs=1e-2)
    assert gathered_in_half != losses, "weights were gathered in float32"


@pytest.mark.parametrize("name", ["fsdp muon", "fsdp muon unread"])
def test_whole_matrices_are_orthogonalised_where_ranks_hold_rows(results: Results, name: str) -> None:
    assert losses_of(results, name) == pytest.approx(results.alone["muon"], abs=1e-5)
    assert results.alone["muon"][1:] != results.alone["mid"][1:4], "not another optimizer"


@pytest.mark.parametrize("name", ["ddp frozen", "fsdp frozen"])
def test_frozen_fields_stay_and_hold_up_nobody(results: Results, name: str) -> None:
    assert losses_of(results, name) == pytest.approx(results.alone["frozen"], abs=1e-5)
    before = make_network(recipe(CASES[name])).state_dict()
    weights = safetensors.torch.load_file(results.folder / f"{name}.weights")
    same = {k for k, v in weights.items() if torch.equal(v, before[k])}
    own = {k for k in weights for field in FROZEN if k.startswith(prefixes(field))}
    assert own <= same
    assert len(own) > 20
    assert any("of_scan" in k for k in weights.keys() - same)


def test_a_run_starts_from_a_checkpoint_in_parts(results: Results, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000010"
    shutil.copytree(results.folder / "parts", checkpoint)
    plain = recipe(CASES["ddp"]).model_copy(update={"storage": str(tmp_path / "out")})
    (tmp_path / "run" / "recipe.yaml").write_text(to_yaml(plain), encoding="utf-8")
    (tmp_path / "run" / "fitted.json").write_text("{}", encoding="utf-8")
    settings = parse_recipe(plain.model_dump(mode="json"), [f"model.init.run={tmp_path / 'run'}"])
    pinned = pin(settings)
    network = make_network(pinned)
    start(network, pinned.model, pinned.fields, pinned.reads.starts)
    there, got = read_weights(results.folder / "parts" / MODEL), network.state_dict()
    taken = {k for k in got if not k.startswith("heads.")}  # a field that starts elsewhere has a clock of its own
    assert {k for k in taken if k not in there} == {"embeddings.of_series.clock.project.weight"}
    assert all(torch.equal(got[k], there[k.removeprefix("embeddings.of_series.")]) for k in taken if ".clock." in k)
    assert all(torch.equal(got[k], there[k]) for k in taken & there.keys())
    assert len(taken) > 40
    (checkpoint / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(StartError, match="00001-of-00002"):
        pin(settings.model_copy(update={"storage": str(tmp_path / "other")}))


@pytest.mark.parametrize("name", ["cross-attention", "bottleneck"])
def test_layers_that_look_elsewhere_are_sharded_too(results: Results, name: str) -> None:
    assert losses_of(results, f"fsdp {name}") == pytest.approx(results.alone[name], abs=1e-5)
    assert results.found[0][f"fsdp {name}"]["sharded"] == results.found[0][f"fsdp {name}"]["all"]


def test_single_numbers_stay_whole_and_are_averaged(results: Results) -> None:
    assert losses_of(results, "fsdp numbers") == pytest.approx(results.alone["numbers"], abs=1e-5)
    found = results.found[0]["fsdp numbers"]
    assert found["all"] - found["sharded"] == len(NAMES)
    weights = safetensors.torch.load_file(results.folder / "fsdp numbers.weights")
    assert all(bool(v != 0) for k, v in weights.items() if "logits" in k)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_part_is_refused(results: Results, tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(results.folder / "parts", folder)
    verify(folder)
    path = folder / name.replace(".", "-00001-of-00002.")
    if damage == "delete":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 4
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="00001-of-00002"):
        verify(folder)


def test_the_exported_model_is_one_file(results: Results, tmp_path: Path) -> None:
    join_parts(results.folder / "parts" / MODEL, tmp_path / MODEL)
    exported = safetensors.torch.load_file(tmp_path / MODEL)
    whole = safetensors.torch.load_file(results.folder / "whole" / MODEL)
    assert {k: v.shape for k, v in exported.items()} == {k: v.shape for k, v in whole.items()}
    assert max(float((exported[k] - whole[k]).abs().max()) for k in whole) < 1e-4
    (results.folder / "parts" / MODEL.replace(".", "-00000-of-00002.")).rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match="all its parts, but found 1"):
        join_parts(results.folder / "parts" / MODEL, tmp_path / MODEL)
    (tmp_path / "away").rename(results.folder / "parts" / MODEL.replace(".", "-00000-of-00002."))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_takes_part_whatever_is_missing(fusion: str) -> None:
    """DDP waits for the gradient of every parameter: none may depend on which fields a pack has."""
    losses = Losses(build(fusion).train(), recipe(CASES["ddp"]))
    whole = draw_batch()
    for left in [set(SPECS), *({name} for name in SPECS), set()]:
        losses.zero_grad()
        losses(whole.only(frozenset(left)), {"label": 1.0})[0].backward()
        assert [n for n, p in losses.named_parameters() if p.grad is None] == [], left
    assert len(list(losses.parameters())) > 50


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp rare"])
def test_the_share_of_collectives_and_the_memory_of_all_ranks_are_reported(results: Results, name: str) -> None:
    metrics = [found[name]["metrics"] for found in results.found]
    for own in metrics:
        assert 0 < own["train/collectives_share"] < 1
        assert own["train/collectives_share"] == pytest.approx(own["train/collectives_s"] / own["step_s"])
    peaks = [own["train/memory_peak_bytes"] for own in metrics]
    assert peaks[0] == peaks[1]
    assert 1e8 < peaks[0] <= max(found[name]["memory"] for found in results.found)


def test_one_worker_needs_no_process_group() -> None:
    losses = torch.nn.Linear(2, 2)
    assert distribute(losses, recipe(CASES["fsdp"]), 1) is losses
    assert not holds_shards(losses)
