"""What share of attention goes to the tokens of each field: a second pass through one layer, for evaluation only.

The kernel gives no weights. But attention whose values are one-hot vectors of the tokens' fields returns, for each
query, the sum of its weights over each field's tokens.
"""

# T rows of the queries, U rows of the keys, S samples, F fields, H heads, K width of a head

import torch
from torch import Tensor

from interlace.model.attention import Segments, attend_to
from interlace.model.fusion import Joint
from interlace.model.transformer import CrossLayer, Layer


def share_within(layer: Layer, x_TD: Tensor, joint: Joint) -> Tensor:
    """Share of each token's attention in a layer that goes to each field, mean over heads, float32 `[T, F]`.

    Args:
        layer: over the joint sequence.
        x_TD: what goes into it.
        joint: whose tokens they are.
    """
    with torch.no_grad(), torch.autocast(x_TD.device.type, enabled=False):
        q_THK, k_THK, _ = layer.project(x_TD).unbind(1)
        return _share((q_THK, k_THK), joint, joint.segments)


def share_across(layer: CrossLayer, x_TD: Tensor, segments: Segments, source: Joint) -> Tensor:
    """As `share_within`, for a layer that attends from the tokens of `segments` to those of `source`."""
    with torch.no_grad(), torch.autocast(x_TD.device.type, enabled=False):
        k_UHK = layer.project_keys(source.x_TD)[:, 0]
        return _share((layer.project_queries(x_TD), k_UHK), source, segments)


def _share(qk: tuple[Tensor, Tensor], source: Joint, segments: Segments) -> Tensor:
    """The share for as many fields at once as a head is wide."""
    q_THK, k_UHK = qk
    heads, width = k_UHK.shape[1:]
    num_fields, shares = len(source.ends_F), []
    for first in range(0, num_fields, width):
        columns_K = torch.arange(first, first + width, device=k_UHK.device)
        is_field_UK = (source.field_T.unsqueeze(1) == columns_K).to(k_UHK.dtype)
        kv_U2HK = torch.stack([k_UHK, is_field_UK.unsqueeze(1).expand(-1, heads, -1)], dim=1)
        shares.append(attend_to(q_THK, kv_U2HK, segments, source.segments).mean(1))
    return torch.cat(shares, dim=1)[:, :num_fields]


def normalise(share_SF: Tensor) -> Tensor:
    """Rows that sum to 1, or to 0 where there was nothing to attend to."""
    return share_SF / share_SF.sum(1, keepdim=True).clamp(min=torch.finfo(share_SF.dtype).tiny)
