"""Models of the `transformers` library as a field's encoder: the model arm's half of `encoder`.

The library is imported where a recipe asks for it, and never looks for anything on a network: the configuration comes
with the field (`FieldSpec.pretrained`), the weights from a kept folder, a checkpoint or an exported model.
"""

# T rows of the sequence (tokens, then slack), N tokens, B segments of a bucket, L padded length, E width of the model

import json
import math
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from interlace.contract.batch import move
from interlace.contract.errors import InterlaceError
from interlace.contract.sample import FieldSpec
from interlace.model.attention import Segments
from interlace.model.buckets import bucket_lengths
from interlace.model.cells import Cells
from interlace.recipe.base import PretrainedEncoder


def transformers() -> Any:
    """The library, offline and without progress bars. Raises InterlaceError where it is not installed."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import transformers as library
    except ImportError as error:
        raise InterlaceError("`encoder.pretrained` needs the extra `hf`: pip install 'interlace[hf]'") from error
    library.utils.logging.disable_progress_bar()
    return library


def build(config: str) -> Any:
    """A model of a configuration, its weights random. Raises InterlaceError where the library knows no such model."""
    settings = json.loads(config)
    library = transformers()
    try:
        model = library.AutoModel.from_config(library.AutoConfig.for_model(**settings))
    except (ValueError, KeyError, TypeError) as error:
        raise InterlaceError(
            f"`encoder.pretrained`: no model for `model_type: {settings.get('model_type')}`"
        ) from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # what it makes of the first token is not read
    return model.eval()


def read_pretrained(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder by their names in `build`, read as safetensors; names of older versions are known.

    Raises:
        InterlaceError: weights are missing.
    """
    model, info = transformers().AutoModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32,
        output_loading_info=True,
    )  # fmt: skip
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
        raise InterlaceError(f"{folder}: expected all weights of the model, but these are missing: {missing}")
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pooler.")}


class Pretrained(nn.Module):
    """A pretrained model and a projection of its last hidden states to the network's width.

    Args:
        spec: with the model's configuration.
        settings: whether it learns.
        dim: width of the output.
    """

    def __init__(self, spec: FieldSpec, settings: PretrainedEncoder, dim: int) -> None:
        super().__init__()
        self.model = build(spec.pretrained)
        self.project = nn.Linear(self.model.config.hidden_size, dim)
        self.frozen = settings.freeze
        self.spec = spec
        if settings.freeze:
            self.model.requires_grad_(False)
        else:
            self._freeze_unread()

    def _freeze_unread(self) -> None:
        """Parameters that no hidden state depends on must not wait for a gradient."""
        self.least().square().sum().backward()  # type: ignore[no-untyped-call]
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    @abstractmethod
    def least(self) -> Tensor:
        """Hidden states `[n, E]` of the least input there is, so that every weight that learns takes part."""

    @abstractmethod
    def states(self, values_N: Tensor, segments: Segments) -> Tensor:
        """The model's last hidden state of each token, float32 `[N, E]`; at least one token is there."""

    def forward(self, values_N: Tensor, cells: Cells) -> Tensor:
        """Tokens `[N]` or `[N, P]` -> `[T, D]`."""
        segments = cells.segments
        states_NE = self.states(values_N, segments) if segments.num_tokens else self.least()[:0]
        out_TD: Tensor = self.project(pad(states_NE, (0, 0, 0, segments.num_rows - segments.num_tokens)))
        return out_TD


class PretrainedTokens(Pretrained):
    """Text: the ids of a sample, special tokens included.

    Samples of similar length share a padded batch (`buckets.bucket_lengths`); padding is masked, and rows come back
    packed.
    """

    def least(self) -> Tensor:
        """See `Pretrained`."""
        one = torch.ones(1, 1, dtype=torch.int64, device=self.project.weight.device)
        return self._hidden(one, one.bool()).flatten(0, 1)

    def states(self, ids_N: Tensor, segments: Segments) -> Tensor:
        """See `Pretrained`."""
        lengths, device = segments.host_N.numpy(), segments.device
        limits = bucket_lengths(lengths)
        padding = self.model.config.pad_token_id or 0
        starts, bucket_of = np.cumsum(lengths) - lengths, np.searchsorted(limits, lengths)
        rows, parts = [], []
        for number in range(len(limits)):
            members = np.flatnonzero((bucket_of == number) & (lengths > 0))
            places = np.arange(lengths[members].max())
            is_token = places < lengths[members, None]
            numbers = np.where(is_token, starts[members, None] + places, 0)
            inside, rows_BL = (move(torch.from_numpy(x), device) for x in (is_token, numbers))
            hidden_BLE = self._hidden(ids_N[rows_BL].masked_fill(~inside, padding), inside)
            rows.append(numbers[is_token])
            taken = move(torch.from_numpy(np.flatnonzero(is_token)), device)
            parts.append(hidden_BLE.flatten(0, 1).index_select(0, taken))
        states_NE, order_N = torch.cat(parts), move(torch.from_numpy(np.concatenate(rows)), device)
        return states_NE.new_zeros(states_NE.shape).index_copy(0, order_N, states_NE)

    def _hidden(self, ids_BL: Tensor, inside_BL: Tensor) -> Tensor:
        """Float32 `[B, L, E]`."""
        found: Tensor = self.model(input_ids=ids_BL, attention_mask=inside_BL.long()).last_hidden_state
        return found.float()


class PretrainedPixels(Pretrained):
    """Pictures, all of the model's size: the states of the patches, without those of the model's own tokens."""

    def least(self) -> Tensor:
        """See `Pretrained`."""
        rows, columns = self.spec.max_grid
        size = (rows * columns, self.spec.patch_dim)
        return self._hidden(torch.zeros(size, dtype=torch.uint8, device=self.project.weight.device))

    def states(self, values_NP: Tensor, segments: Segments) -> Tensor:
        """See `Pretrained`."""
        return self._hidden(values_NP)

    def _hidden(self, values_NP: Tensor) -> Tensor:
        config, (rows, columns), channels = self.model.config, self.spec.max_grid, self.spec.channels
        side = math.isqrt(self.spec.patch_dim // channels)
        cells = values_NP.view(-1, rows, columns, side, side, channels).permute(0, 5, 1, 3, 2, 4)
        pixels_BCHW = cells.reshape(-1, channels, rows * side, columns * side).float() / 255
        scale = torch.tensor([config.pixel_mean, config.pixel_std]).to(pixels_BCHW.dtype)
        mean, std = move(scale, pixels_BCHW.device)[:, :, None, None]
        found_BLE: Tensor = self.model(pixel_values=(pixels_BCHW - mean) / std).last_hidden_state
        return found_BLE[:, -rows * columns :].flatten(0, 1).float()
