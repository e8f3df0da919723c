"""The decoder of a text (Vaswani et al. 2017, pre-norm): causal layers that also look at a memory, packed or by steps.

Training reads whole texts, packed end to end: `Decoder(ids, segments, memory)`. Generation goes token by token with the
keys and values of what was written kept (`DecodingState`); there texts of a pack lie in a padded batch, always in
float32, so that a step gives what the packed pass gives.
"""

# T rows of the packed texts (tokens, then slack), U rows of the packed memory, S samples, W texts a sample, L tokens
# written so far, M padded length of the memory, H heads, K width of a head, D width, V ids

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad, scaled_dot_product_attention

from interlace.model import tokenwise
from interlace.model.attention import Segments, attend, attend_to
from interlace.model.transformer import Block, Residual
from interlace.recipe.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a decoder looks at: normalised vectors `x_UD` of the samples' tokens, one segment a sample."""

    x_UD: Tensor
    segments: Segments


class DecoderLayer(Block):
    """Causal attention within the text, attention to the sample's memory, then a feed-forward block."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        dim, hidden = model.dim, round(model.dim * model.mlp_ratio)
        self.heads = (dim // model.head_dim, model.head_dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attention_out = nn.Linear(dim, dim, bias=False)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_q = nn.Linear(dim, dim, bias=False)
        self.cross_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.cross_out = nn.Linear(dim, dim, bias=False)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, dim, bias=False)
        self.residual = Residual(model.dropout)

    def run(self, x_TD: Tensor, segments: Segments, memory: Memory) -> Tensor:
        """Whole texts at once; both sides have one segment a sample."""
        rows, dim = x_TD.shape
        computed, drawn = self.tokenwise, self.residual.draw
        qkv_TD3 = computed.project(x_TD, tokenwise.of(self.attention_norm), self.qkv.weight)
        o_THK = attend(qkv_TD3.view(rows, 3, *self.heads), segments, causal=True)
        x_TD = computed.mix(x_TD, o_THK.reshape(rows, dim), self.attention_out.weight, drawn(x_TD))
        q_TD = computed.project(x_TD, tokenwise.of(self.cross_norm), self.cross_q.weight)
        kv_U2HK = self.cross_kv(memory.x_UD).view(len(memory.x_UD), 2, *self.heads)
        o_THK = attend_to(q_TD.view(rows, *self.heads), kv_U2HK, segments, memory.segments)
        return computed.finish(
            x_TD,
            o_THK.reshape(rows, dim),
            tokenwise.of(self.mlp_norm),
            (self.cross_out.weight, self.mlp_in.weight, self.mlp_out.weight),
            (drawn(x_TD), drawn(x_TD)),
        )

    def step(self, x_SWD: Tensor, cache: "LayerCache", seen_S11M: Tensor) -> Tensor:
        """One further token of each text; its key and value join the cache."""
        samples, texts, dim = x_SWD.shape
        split = (samples * texts, 1, 3, *self.heads)
        q, k, v = self.qkv(self.attention_norm(x_SWD)).view(split).permute(2, 0, 3, 1, 4)  # each [S * W, H, 1, K]
        cache.extend(k, v)
        o = scaled_dot_product_attention(q, cache.k, cache.v)
        x_SWD = self.residual(x_SWD, self.attention_out(o.reshape(samples, texts, dim)))
        q_SHWK = self.cross_q(self.cross_norm(x_SWD)).view(samples, texts, *self.heads).transpose(1, 2)
        o_SHWK = scaled_dot_product_attention(q_SHWK, cache.memory_k_SHMK, cache.memory_v_SHMK, attn_mask=seen_S11M)
        x_SWD = self.residual(x_SWD, self.cross_out(o_SHWK.transpose(1, 2).reshape(samples, texts, dim)))
        matrices = self.mlp_in.weight, self.mlp_out.weight
        return tokenwise.feed(x_SWD, tokenwise.of(self.mlp_norm), matrices, self.residual.draw(x_SWD))


class Decoder(nn.Module):
    """Predicts each token of a text from those before it and from the sample's memory.

    Args:
        model: width, heads, dropout.
        num_layers: of the decoder.
        max_tokens: longest text, with what opens it.
    """

    def __init__(self, model: Model, num_layers: int, max_tokens: int) -> None:
        super().__init__()
        self.id_scale = model.id_scale
        self.position = nn.Embedding(max_tokens, model.dim)
        self.memory_norm = nn.LayerNorm(model.dim)
        self.layers = nn.ModuleList(DecoderLayer(model) for _ in range(num_layers))
        self.out_norm = nn.LayerNorm(model.dim)

    def residual_matrices(self) -> list[nn.Linear]:
        """What writes to the residual stream."""
        own = [layer for layer in self.layers if isinstance(layer, DecoderLayer)]
        return [matrix for layer in own for matrix in (layer.attention_out, layer.cross_out, layer.mlp_out)]

    def forward(self, table_VD: Tensor, ids_N: Tensor, segments: Segments, memory: Memory) -> Tensor:
        """State after each token, `[T, D]`, from which the next is predicted.

        Args:
            table_VD: vector of each id.
            ids_N: packed texts, int64, without slack.
            segments: one a sample, as those of the memory.
            memory: not normalised.
        """
        ids_T = pad(ids_N, (0, segments.num_rows - len(ids_N)))
        x_TD = embedding(ids_T, table_VD) * self.id_scale + self.position(segments.offset_T)
        memory = Memory(x_UD=self.memory_norm(memory.x_UD), segments=memory.segments)
        for layer in self.layers:
            x_TD = layer(x_TD, segments, memory)
        out_TD: Tensor = self.out_norm(x_TD)
        return out_TD

    def start(self, table_VD: Tensor, out_VD: Tensor, memory: Memory) -> "DecodingState":
        """Begin texts of the samples of a memory; `out_VD` is the output matrix."""
        return DecodingState(self, table_VD, out_VD, memory)


@dataclass(slots=True)
class LayerCache:
    """Keys and values of one layer: of the tokens written, `[S * W, H, L, K]`, and of the memory."""

    k: Tensor
    v: Tensor
    memory_k_SHMK: Tensor
    memory_v_SHMK: Tensor

    def extend(self, k: Tensor, v: Tensor) -> None:
        """Add a token to each text."""
        self.k, self.v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)


class DecodingState:
    """Texts being written, a token at a time: `log_probs` of the next token given the last one.

    Args:
        decoder: in evaluation mode.
        table_VD, out_VD: vectors of the ids, and the output matrix.
        memory: of the samples, not normalised; a sample without any token has nothing to look at.
    """

    def __init__(self, decoder: Decoder, table_VD: Tensor, out_VD: Tensor, memory: Memory) -> None:
        self.decoder = decoder
        self.table_VD, self.out_VD = table_VD.float(), out_VD.float()
        self.num_written = 0
        self.num_samples = len(memory.segments.lengths_N)
        with torch.autocast(memory.x_UD.device.type, enabled=False):
            x_UD = decoder.memory_norm(memory.x_UD.float())
            index_SM, self.seen_S11M = padded_rows(memory.segments)
            self.caches = [self._begin(layer, x_UD, index_SM) for layer in decoder.layers]

    def _begin(self, layer: nn.Module, x_UD: Tensor, index_SM: Tensor) -> LayerCache:
        assert isinstance(layer, DecoderLayer)
        if not len(x_UD):
            x_UD = x_UD.new_zeros(1, x_UD.shape[1])
        kv = layer.cross_kv(x_UD)[index_SM].unflatten(2, (2, *layer.heads)).permute(2, 0, 3, 1, 4).contiguous()
        empty_S = ~self.seen_S11M.any(3).flatten()
        kv[:, empty_S] = 0
        nothing = kv.new_zeros(self.num_samples, kv.shape[2], 0, kv.shape[4])
        return LayerCache(k=nothing, v=nothing, memory_k_SHMK=kv[0], memory_v_SHMK=kv[1])

    def log_probs(self, ids_SW: Tensor) -> Tensor:
        """Log-probability of each id after this token of each text, float32 `[S, W, V]`.

        The number of texts a sample may grow after the first token only by `reorder`.
        """
        with torch.autocast(ids_SW.device.type, enabled=False):
            place_D = self.decoder.position.weight[self.num_written]
            x_SWD = embedding(ids_SW, self.table_VD) * self.decoder.id_scale + place_D
            seen_S11M = self.seen_S11M | ~self.seen_S11M.any(3, keepdim=True)  # nothing but zeros: gives zeros
            for layer, cache in zip(self.decoder.layers, self.caches, strict=True):
                assert isinstance(layer, DecoderLayer)
                x_SWD = layer.step(x_SWD, cache, seen_S11M)
            logits_SWV = self.decoder.out_norm(x_SWD) @ self.out_VD.T
        self.num_written += 1
        log_probs_SWV: Tensor = logits_SWV.log_softmax(2)
        return log_probs_SWV

    def reorder(self, parent_SW: Tensor) -> None:
        """Text `w` of sample `s` goes on from its text `parent_SW[s, w]`; their number may change."""
        samples = len(parent_SW)
        texts = self.caches[0].k.shape[0] // samples
        rows = (torch.arange(samples, device=parent_SW.device).unsqueeze(1) * texts + parent_SW).flatten()
        for cache in self.caches:
            cache.k, cache.v = cache.k.index_select(0, rows), cache.v.index_select(0, rows)

    def keep(self, samples: Tensor) -> None:
        """Go on with these samples only, by their numbers among those that are left."""
        texts = self.caches[0].k.shape[0] // self.num_samples
        rows = (samples.unsqueeze(1) * texts + torch.arange(texts, device=samples.device)).flatten()
        self.seen_S11M = self.seen_S11M.index_select(0, samples)
        self.num_samples = len(samples)
        for cache in self.caches:
            cache.k, cache.v = cache.k.index_select(0, rows), cache.v.index_select(0, rows)
            cache.memory_k_SHMK = cache.memory_k_SHMK.index_select(0, samples)
            cache.memory_v_SHMK = cache.memory_v_SHMK.index_select(0, samples)


def padded_rows(segments: Segments) -> tuple[Tensor, Tensor]:
    """Row of each place of a padded batch, `[S, M]` (0 where none), and whether it is a token, `[S, 1, 1, M]`."""
    places_M = torch.arange(max(segments.max_length, 1), device=segments.lengths_N.device)
    seen_SM = places_M < segments.lengths_N.unsqueeze(1)
    index_SM = (segments.starts_N.unsqueeze(1) + places_M).masked_fill(~seen_SM, 0)
    return index_SM, seen_SM[:, None, None]
