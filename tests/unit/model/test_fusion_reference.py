"""Every fusion equals a straight-line one on padded fields with boolean masks, which reads the same parameters."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from interlace.contract.batch import Batch
from interlace.model.attention import Segments
from interlace.model.network import Network
from tests.networks import FUSIONS, SPECS, build, draw_batch, without

Padded = tuple[Tensor, Tensor]
"""Vectors `[S, L, D]` and whether each is a token, `[S, L]`."""


def embedded(network: Network, batch: Batch) -> dict[str, Padded]:
    """The fields' embeddings, padded."""
    out = {}
    for name, item in batch.fields.items():
        x = network.embeddings[f"of_{name}"](item, Segments(item.lengths), network.clock)
        rows = x[: int(item.lengths.sum())].split(item.lengths.tolist())
        mask = torch.arange(int(item.lengths.max())) < item.lengths[:, None]
        out[name] = nn.utils.rnn.pad_sequence(list(rows), batch_first=True), mask
    return out


def norm(module: nn.Module, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], module.weight, module.bias)


def heads(x: Tensor, like: nn.Module) -> Tensor:
    """`[S, L, D]` -> `[S, H, L, K]`."""
    return x.unflatten(2, like.heads).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Zeros for samples without keys."""
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    return out.nan_to_num(0.0).transpose(1, 2).flatten(2)


def feed_forward(layer: nn.Module, x: Tensor) -> Tensor:
    return x + functional.gelu(norm(layer.mlp_norm, x) @ layer.mlp_in.weight.T) @ layer.mlp_out.weight.T


def within(layers: nn.Module, padded: Padded) -> Padded:
    x, mask = padded
    for layer in layers:
        qkv = (norm(layer.attention_norm, x) @ layer.qkv.weight.T).chunk(3, dim=2)
        x = x + attention(*(heads(part, layer) for part in qkv), mask) @ layer.attention_out.weight.T
        x = feed_forward(layer, x)
    return x, mask


def across(layers: nn.Module, padded: Padded, source: Padded) -> Padded:
    x, mask = padded
    for layer in layers:
        q = norm(layer.query_norm, x) @ layer.query.weight.T
        k, v = (norm(layer.source_norm, source[0]) @ layer.key_value.weight.T).chunk(2, dim=2)
        mixed = attention(*(heads(part, layer) for part in (q, k, v)), source[1])
        x = feed_forward(layer, x + mixed @ layer.attention_out.weight.T)
    return x, mask


def joined(parts: list[Padded]) -> Padded:
    return torch.cat([x for x, _ in parts], dim=1), torch.cat([mask for _, mask in parts], dim=1)


def pooled(network: Network, padded: Padded) -> Tensor:
    x, mask = padded
    x = functional.layer_norm(x, x.shape[-1:])
    if network.model.pool == "max":
        return x.masked_fill(~mask[..., None], -1e9).amax(1) * mask.any(1)[:, None]
    return (x * mask[..., None]).sum(1) / mask.sum(1).clamp(min=1)[:, None]


def average(states: dict[str, Tensor], fields: dict[str, Padded]) -> Tensor:
    here = torch.stack([mask.any(1) for _, mask in fields.values()]).float()
    return (torch.stack(list(states.values())) * here[..., None]).sum(0) / here.sum(0).clamp(min=1)[:, None]


def bottleneck(network: Network, fields: dict[str, Padded]) -> Tensor:
    size = network.model.bottleneck_tokens
    here = {name: mask.any(1)[:, None].expand(-1, size) for name, (_, mask) in fields.items()}
    shared = network.fusion.shared.weight.expand(len(next(iter(here.values()))), -1, -1)
    pairs = {name: joined([fields[name], (shared, here[name])]) for name in fields}
    for layers in network.fusion.layers:
        pairs = {name: within([layers[f"of_{name}"]], pair) for name, pair in pairs.items()}
        states = {name: pooled(network, pair) for name, pair in pairs.items()}
        total = sum(pair[0][:, -size:] * here[name][..., None] for name, pair in pairs.items())
        shared = total / sum(h[:, :1, None].float() for h in here.values()).clamp(min=1)
        pairs = {name: joined([(p[0][:, :-size], p[1][:, :-size]), (shared, here[name])]) for name, p in pairs.items()}
    return average(states, fields)


def cross_attention(network: Network, fields: dict[str, Padded]) -> Tensor:
    query, layers = network.model.query, network.fusion.layers
    others = {name: joined([f for n, f in fields.items() if n != name]) for name in fields}
    if query is None:
        asked = {name: pooled(network, across(layers[f"of_{name}"], fields[name], others[name])) for name in fields}
        return average(asked, fields)
    x, mask = fields[query]
    missing = ~mask.any(1)
    stand_in = network.fusion.stand_in.weight.expand(len(x), 1, -1), missing[:, None]
    state = pooled(network, across(layers[f"of_{query}"], joined([fields[query], stand_in]), others[query]))
    return state * joined(list(fields.values()))[1].any(1)[:, None]


def weights(logits: list[Tensor], fields: dict[str, Padded]) -> Tensor:
    """Softmax over the present fields, `[F, S, ...]`."""
    here = torch.stack([mask.any(1) for _, mask in fields.values()])
    votes = torch.stack(logits)
    here = here.view(*here.shape, *[1] * (votes.ndim - 2))
    return votes.masked_fill(~here, -torch.inf).softmax(0).nan_to_num(0.0)


def reference(network: Network, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """Each field's state, the sample's, and the logits where fields decide."""
    kind, fusion, fields = network.model.fusion, network.fusion, embedded(network, batch)
    if kind != "early":
        fields = {name: within(fusion.encoders[f"of_{name}"].layers, item) for name, item in fields.items()}
    own = {name: pooled(network, item) for name, item in fields.items()}
    if kind in ("early", "mid"):
        return own, pooled(network, within(fusion.joint.layers, joined(list(fields.values())))), None
    if kind in ("bottleneck", "cross_attention"):
        return own, {"bottleneck": bottleneck, "cross_attention": cross_attention}[kind](network, fields), None
    if kind in ("weighted_sum", "decision"):
        shares = weights([fusion.logits[f"of_{n}"].expand(len(x)) for n, x in own.items()], fields)
        state = sum(share[:, None] * x for share, x in zip(shares, own.values(), strict=True))
        if kind == "weighted_sum":
            return own, state, None
        chosen = [network.heads["of_label"].field_heads[f"of_{n}"](x).log_softmax(1) for n, x in own.items()]
        return own, state, sum(share[:, None] * x for share, x in zip(shares, chosen, strict=True))
    projected = {n: x @ fusion.project[f"of_{n}"].weight.T for n, x in own.items()}
    if kind == "concat":  # the blocks side by side
        whole = torch.cat([fusion.project[f"of_{n}"].weight for n in own], dim=1)
        return own, functional.gelu(torch.cat(list(own.values()), dim=1) @ whole.T), None
    if kind == "product":
        return own, torch.stack([1 + x.tanh() for x in projected.values()]).prod(0) - 1, None
    opened = [
        sum(x @ fusion.gates[f"of_{n}"][f"of_{m}"].weight.T for m, x in own.items()) + fusion.offsets[f"of_{n}"]
        for n in own
    ]
    return own, (weights(opened, fields) * torch.stack(list(projected.values())).tanh()).sum(0), None


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_fusion_equals_padding_and_boolean_masks(fusion: str, pool: str):
    network, batch = build(fusion, pool=pool, joint_layers=2), draw_batch(missing=0.4, samples=9)
    for name in SPECS:
        batch = without(batch, name, 4)
    got = network(batch)
    own, state, logits = reference(network, batch)
    torch.testing.assert_close(got.sample_SD, state, atol=1e-5, rtol=1e-5)
    for name in SPECS:
        torch.testing.assert_close(got.fields[name].pooled_SD, own[name], atol=1e-5, rtol=1e-5)
    assert (logits is not None) == (fusion == "decision")
    if logits is not None:
        torch.testing.assert_close(network.tasks["label"].logits(got), logits, atol=1e-5, rtol=1e-5)
    assert not state[4].any()
    assert state.std(0).max() > 0.05
    assert any(not f.present_S.all() for f in got.fields.values())
