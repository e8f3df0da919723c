"""What is true of every fusion, as a check for the tests of any package that brings one."""

# S samples, D width, F fields

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from interlace.model.attention import Segments
from interlace.model.fusion import FieldTokens, Fused, Fusion
from interlace.model.fusions import FUSIONS
from interlace.recipe.model import Model

NAMES = ("first", "second", "third")
"""The fields that a fusion is checked with; `model.query` must be one of them."""
LENGTHS = ((3, 1, 2), (2, 0, 1), (0, 4, 2), (1, 2, 0), (0, 0, 3), (2, 3, 1))
"""Tokens of each field in each sample; in none is all missing, and the first and the last have every field."""
CLOSE = 1e-4
"""Most absolute or relative difference of what is the same but for roundings."""

Vectors = Mapping[str, Sequence[Tensor]]
"""For each field the vectors `[n, D]` of each sample."""


def check_fusion(model: Model, seed: int = 0) -> None:
    """Every law of a fusion, on fields with gaps: safe with any subset of the fields, one sample apart from others.

    Args:
        model: settings that name the fusion, which may be one of an installed plug-in; small ones do.
        seed: of weights and vectors.

    Raises:
        AssertionError: with the law that does not hold.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fusion = _made(model, NAMES)
        vectors = {name: [torch.randn(row[i], model.dim) for row in LENGTHS] for i, name in enumerate(NAMES)}
        others = {name: [torch.randn_like(x) for x in rows] for name, rows in vectors.items()}
    _check_shapes(fusion, vectors, model.dim)
    _check_company(fusion, vectors, others)
    _check_missing(fusion, vectors)
    _check_own_states(fusion, vectors, others)
    _check_order(model, fusion, vectors)
    _check_weights(fusion, vectors)
    _check_gradients(fusion, vectors)


def _made(model: Model, names: Sequence[str]) -> Fusion:
    """In evaluation, with weights large enough that differences show."""
    fusion = FUSIONS[model.fusion](model, names).eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return fusion


def fuse(fusion: Fusion, vectors: Vectors, kept: Sequence[str] | None = None) -> Fused:
    """What a fusion makes of these vectors, where only some fields are kept (all where None)."""
    tokens = {}
    for name, rows in vectors.items():
        segments = Segments(torch.tensor([len(x) for x in rows]))
        x_TD = torch.zeros(segments.num_rows, rows[0].shape[1])
        x_TD[: segments.num_tokens] = torch.cat(list(rows))
        tokens[name] = FieldTokens(x_TD=x_TD, segments=segments)
    keep_F = torch.tensor([kept is None or name in kept for name in vectors])
    present_SF = torch.stack([item.segments.lengths_N > 0 for item in tokens.values()], dim=1)
    return fusion(fusion.encode(tokens), present_SF & keep_F)  # type: ignore[no-any-return] # torch calls are Any


def _near(one: Tensor, other: Tensor, law: str) -> None:
    assert torch.allclose(one, other, atol=CLOSE, rtol=CLOSE), (
        f"{law}, but they differ by up to {float((one - other).detach().abs().max()):g}"
    )


def _replaced(vectors: Vectors, by: Vectors, sample: int) -> dict[str, list[Tensor]]:
    return {n: [by[n][s] if s == sample else x for s, x in enumerate(rows)] for n, rows in vectors.items()}


def _check_shapes(fusion: Fusion, vectors: Vectors, dim: int) -> None:
    fused = fuse(fusion, vectors)
    states = {"the sample's state": fused.sample_SD, **{f"the state of `{n}`": x for n, x in fused.fields.items()}}
    assert set(fused.fields) == set(vectors), f"expected a state of each field, but of {', '.join(fused.fields)}"
    for what, state in states.items():
        whole = state.shape == (len(LENGTHS), dim) and state.dtype == torch.float32
        assert whole, f"expected {what} as float32 [{len(LENGTHS)}, {dim}], but is {state.dtype} {tuple(state.shape)}"
        assert bool(state.isfinite().all()), f"expected {what} to be finite"
    assert float(fused.sample_SD.detach().std(0).max()) > 0, "expected states that differ between samples"


def _check_company(fusion: Fusion, vectors: Vectors, others: Vectors) -> None:
    whole = fuse(fusion, vectors).sample_SD
    for sample in range(len(LENGTHS)):
        alone = fuse(fusion, {n: [rows[sample]] for n, rows in vectors.items()}).sample_SD
        _near(alone[0], whole[sample], f"expected sample {sample} alone to have the state that it has among others")
    changed = fuse(fusion, _replaced(vectors, others, 0)).sample_SD
    _near(changed[1:], whole[1:], "expected tokens of a sample to change no other sample")
    moved = float((changed[0] - whole[0]).detach().abs().max())
    assert moved > CLOSE, "expected a sample's state to follow its tokens"


def _check_missing(fusion: Fusion, vectors: Vectors) -> None:
    for name in vectors:
        rest = [n for n in vectors if n != name]
        gone = {n: [x[:0] for x in rows] if n == name else rows for n, rows in vectors.items()}
        hidden, missing = fuse(fusion, vectors, rest), fuse(fusion, gone)
        _near(hidden.sample_SD, missing.sample_SD, f"expected `{name}` not kept to be as `{name}` missing")
        _near(hidden.fields[name], fuse(fusion, vectors).fields[name], f"expected `{name}` to keep its own state")
        assert not missing.fields[name].any(), f"expected zeros as the state of `{name}` where it is missing"
    nothing = fuse(fusion, vectors, []).sample_SD
    assert not nothing.any(), "expected zeros as the state of a sample without a field"


def _check_own_states(fusion: Fusion, vectors: Vectors, others: Vectors) -> None:
    whole = fuse(fusion, vectors)
    for name in vectors:
        changed = fuse(fusion, {n: rows if n == name else others[n] for n, rows in vectors.items()})
        _near(
            changed.fields[name], whole.fields[name], f"expected the state of `{name}` to follow its own tokens alone"
        )


def _check_order(model: Model, fusion: Fusion, vectors: Vectors) -> None:
    names = NAMES[::-1]
    with torch.random.fork_rng(devices=[]):
        turned = _made(model, names)
    turned.load_state_dict(fusion.state_dict())  # parameters are named after fields, never numbered
    found = fuse(turned, {name: vectors[name] for name in names}).sample_SD
    _near(found, fuse(fusion, vectors).sample_SD, "expected the order of the fields to change nothing")


def _check_weights(fusion: Fusion, vectors: Vectors) -> None:
    fusion.measures = True
    weights_SF = fuse(fusion, vectors).weights_SF
    fusion.measures = False
    if weights_SF is None:
        return
    assert not weights_SF.requires_grad, "expected weights to be detached"
    assert bool((weights_SF >= 0).all()), "expected weights of at least 0"
    missing_SF = torch.tensor(LENGTHS) == 0
    assert not weights_SF[missing_SF].any(), "expected the weight 0 for what is missing"
    many_S = (~missing_SF).sum(1) > 1
    _near(weights_SF[many_S].sum(1), torch.ones(int(many_S.sum())), "expected weights that sum to 1")


def _check_gradients(fusion: Fusion, vectors: Vectors) -> None:
    fusion.zero_grad()
    fused = fuse(fusion, vectors)
    total = fused.sample_SD.square().sum() + sum(x.square().sum() for x in fused.fields.values())
    if fused.votes_SF is not None:
        total = total + fused.votes_SF.square().sum()
    torch.as_tensor(total).backward()  # type: ignore[no-untyped-call]
    for name, parameter in fusion.named_parameters():
        grad = parameter.grad
        assert grad is not None, f"expected a gradient of `{name}`, but there is none"
        assert bool(grad.isfinite().all()), f"expected a finite gradient of `{name}`"
    fusion.zero_grad()
