"""Laws of starting from another run: same ids, same states, nothing moves that is frozen, and no need of it later."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from interlace.contract.batch import Batch, to_batch
from interlace.contract.errors import RecipeError, StartError
from interlace.contract.sample import Pack
from interlace.data.index.build import Index, build_index
from interlace.data.read.open import open_reader
from interlace.model.network import Network, Outputs
from interlace.recipe.identity import digest, to_yaml
from interlace.recipe.load import load_recipe, parse_recipe
from interlace.recipe.recipe import Recipe
from interlace.recipe.start import pin
from interlace.results.predictor import Predictor, export_model
from interlace.store.places import starts_of
from interlace.train.build import network_for
from interlace.train.checkpoint import RunState, load_optimizer, load_weights, save_checkpoint
from interlace.train.loop import Loop
from interlace.train.optim import make_optimizer, rate_factor
from interlace.train.report import StepReport
from interlace.train.start import start
from tests.data import EmojiLike

CAPTION = {"modality": "text", "column": "caption", "tokenizer": "bpe", "vocab_size": 300, "stem": "rnn"}
BOTH = {"image": {"modality": "image", "column": "image", "max_size": 16, "patch": 8}, "caption": CAPTION}


class Here:
    """A recipe's run in this process, begun as a worker begins one."""

    def __init__(self, recipe: Recipe, num_steps: int = 4) -> None:
        torch.set_num_threads(1)
        self.recipe = pin(recipe)
        self.index: Index = build_index(self.recipe)
        self.reader = open_reader(self.index, self.recipe, "train", training=True)
        self.plan = self.reader.plan()
        self.schedule = self.plan.schedule(steps=num_steps)
        torch.manual_seed(self.recipe.seed)
        self.network: Network = network_for(self.recipe, self.index.fitted)
        self.said = start(self.network, self.recipe.model, self.recipe.fields, starts_of(self.recipe.storage))
        self.loop = Loop(
            network=self.network,
            optimizer=make_optimizer(self.recipe.optim, self.network, (rate_factor(self.recipe.fields),)),
            recipe=self.recipe,
            num_steps=num_steps,
            device=torch.device("cpu"),
        )

    def packs(self, begin: int = 0) -> Iterator[Pack]:
        for window in self.schedule.since(begin):
            yield from self.reader.read(window, first=begin, stop=self.schedule.stop, plan=self.plan)

    def run(self, first: int = 0, last: int | None = None) -> list[StepReport]:
        reports = []
        for report in self.loop.steps(self.packs(first * self.schedule.global_batch), first):
            reports.append(report)
            if report.step == last:
                break
        return reports

    def batch(self) -> Batch:
        return to_batch(next(self.packs()))

    def save(self, folder: Path, step: int = 4) -> Path:
        state = RunState(
            step=step, best_step=-1, best_value=0.0, evaluations_since_best=0, finished=False, recipe_digest="",
            data_digest="",
        )  # fmt: skip
        save_checkpoint(folder, self.network, self.loop.optimizer, state)
        return folder

    def export(self, folder: Path) -> Path:
        export_model(self.recipe, self.index.fitted, self.save(folder / "checkpoints" / "step-00000004"), folder)
        return folder

    def parts(self, name: str) -> dict[str, Tensor]:
        """A field's own tensors, by name without the field's."""
        return {
            f"{i}.{k}": v.clone()
            for i, module in enumerate(self.network.encoder_of(name))
            for k, v in module.state_dict().items()
        }


@pytest.fixture(scope="module")
def trained(shapes: EmojiLike, tmp_path_factory: pytest.TempPathFactory) -> tuple[Here, Path]:
    """A sub-model of captions alone, trained and exported, and the folder of its run."""
    folder = tmp_path_factory.mktemp("sub")
    here = Here(recipe(shapes, folder / "out", {"caption": CAPTION}))
    before = here.parts("caption")
    here.run()
    assert any(not torch.equal(before[k], v) for k, v in here.parts("caption").items())
    return here, here.export(folder / "run")


def recipe(shapes: EmojiLike, out: Path, fields: dict[str, Any], **sections: Any) -> Recipe:
    """Over these fields only; rows without any of them are left out."""
    sections = {"batch": {"global_batch": 2}, "data": {"max_bad_share": 1.0}, **sections}
    return parse_recipe({**shapes.tree(out, **sections), "fields": fields})


def joined(shapes: EmojiLike, out: Path, run: Path, **caption: Any) -> Recipe:
    """Pictures and captions, the captions started from a run."""
    fields = {**BOTH, "caption": {**CAPTION, "init": {"run": str(run)}, **caption}}
    return recipe(shapes, out, fields, model={"dropout": 0.1, "modality_dropout": 0.2})


def caption_states(network: Network, batch: Batch) -> list[Tensor]:
    outputs: Outputs = network(batch)
    item = outputs.tokens["caption"]
    return [outputs.fields["caption"].pooled_SD, item.x_TD[: item.segments.num_tokens]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_trained_alone_and_frozen_gives_bit_equal_states_in_the_fused_model(
    shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path, precision: str
):
    alone, run = trained
    fused = Here(joined(shapes, tmp_path, run, freeze=True))
    kept, batch = fused.parts("caption"), fused.batch()
    for moment in ("loaded", "trained"):
        fused.network.train()  # dropout must not touch what is frozen
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            got = caption_states(fused.network, batch)
            want = caption_states(alone.network.eval(), batch)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b), moment
        assert want[1].std() > 0.01
        if moment == "loaded":
            before = fused.parts("image")
            fused.run()
            assert any(not torch.equal(before[k], v) for k, v in fused.parts("image").items())
    assert all(torch.equal(kept[k], v) for k, v in fused.parts("caption").items())
    assert len(batch.fields["caption"].lengths) > 4


def test_the_same_text_has_the_same_ids_in_the_joined_model(shapes: EmojiLike, trained: tuple[Here, Path], tmp_path):
    alone, run = trained
    other = pin(joined(shapes, tmp_path, run))
    few = other.data.model_copy(update={"train": other.data.validation})  # another vocabulary, if it were fitted
    index = build_index(other.model_copy(update={"data": few}))
    assert index.fitted["fields"]["caption"] == alone.index.fitted["fields"]["caption"]
    unlike = build_index(recipe(shapes, tmp_path, BOTH).model_copy(update={"data": few}))
    assert unlike.fitted["fields"]["caption"] != alone.index.fitted["fields"]["caption"]


def test_what_is_frozen_has_no_gradient_and_no_optimizer_state(shapes: EmojiLike, trained: tuple[Here, Path], tmp_path):
    fused = Here(joined(shapes, tmp_path, trained[1], freeze=True))
    fused.run(last=1)
    frozen = [p for module in fused.network.encoder_of("caption") for p in module.parameters()]
    assert all(p.grad is None and not p.requires_grad and p not in fused.loop.optimizer.state for p in frozen)
    learning = [p for p in fused.network.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)
    assert len(learning) > 10 < len(frozen)


def test_frozen_parts_do_not_hold_up_data_parallel_training(
    shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path
):
    """DistributedDataParallel refuses the second step where a parameter that learns was left out of the first."""
    settings = joined(shapes, tmp_path, trained[1], freeze=True)
    want = [r.loss for r in Here(settings).run()]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        here = Here(settings)
        here.loop.losses = DistributedDataParallel(here.loop.losses)
        assert [r.loss for r in here.run()] == want
    finally:
        dist.destroy_process_group()
    assert len(want) == 4


def test_resume_equals_uninterrupted_without_the_other_run(
    shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path
):
    """Gone are the other run and, for the weights, its copy: the checkpoint holds all."""
    run = shutil.copytree(trained[1], tmp_path / "other")
    settings = joined(shapes, tmp_path / "out", run, freeze=True)
    whole = Here(settings)
    reference = [r.loss for r in whole.run()]
    first = Here(settings)
    before = [r.loss for r in first.run(last=2)]
    saved = first.save(tmp_path / "saved", 2)
    shutil.rmtree(run)
    second = Here(settings)
    with torch.no_grad():
        for parameter in second.network.parameters():
            parameter.zero_()
    load_weights(saved, second.network)
    load_optimizer(saved, second.loop.optimizer, second.network)
    assert before + [r.loss for r in second.run(first=2)] == reference
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name
    assert len(reference) == 4


def test_a_rate_factor_scales_the_fields_own_updates_only(shapes: EmojiLike, trained: tuple[Here, Path], tmp_path):
    """Under plain SGD the first update is the rate times the gradient."""
    optim = {"name": "sgd", "beta1": 0.0, "weight_decay": 0.0, "warmup": 0.0, "clip": 1e9, "lr": 0.1}
    moved = {}
    for factor in (1.0, 0.25):
        settings = joined(shapes, tmp_path, trained[1], lr_factor=factor)
        here = Here(parse_recipe({**settings.model_dump(mode="json"), "optim": optim}))
        before = {k: v.detach().clone() for k, v in here.network.named_parameters()}
        here.run(last=1)
        moved[factor] = {k: v.detach() - before[k] for k, v in here.network.named_parameters()}
    own = [k for k in moved[1.0] if "of_caption" in k and not k.startswith("heads")]
    for name, step in moved[1.0].items():
        want = step * 0.25 if name in own else step
        torch.testing.assert_close(moved[0.25][name], want, atol=1e-6, rtol=1e-3)
    assert sum(float(moved[1.0][k].abs().max()) > 1e-5 for k in own) > 5
    assert len(own) < len(moved[1.0])


def test_an_encoder_goes_over_to_another_field(shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path):
    alone, run = trained
    fields = {"title": {**CAPTION, "init": {"run": str(run), "field": "caption"}}}
    other = Here(recipe(shapes, tmp_path, fields))
    want, got = alone.parts("caption"), other.parts("title")
    assert want.keys() == got.keys()
    assert all(torch.equal(want[k], got[k]) for k in want)
    assert other.index.fitted["fields"]["title"] == alone.index.fitted["fields"]["caption"]


def test_a_run_its_checkpoint_and_its_exported_model_are_the_same_start(
    shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path
):
    exported = trained[1]
    run = tmp_path / "run"
    shutil.copytree(exported / "checkpoints", run / "checkpoints")
    for name in ("recipe.yaml", "fitted.json"):
        shutil.copyfile(exported / name, run / name)
    places = (exported, run, run / "checkpoints" / "step-00000004")
    pinned = [pin(joined(shapes, tmp_path / "out", place)) for place in places]
    assert len({p.fields["caption"].init.digest for p in pinned if p.fields["caption"].init}) == 1
    assert len({digest(p) for p in pinned}) == 1
    (tmp_path / "whole.yaml").write_text(to_yaml(pinned[0]), encoding="utf-8")
    assert load_recipe(tmp_path / "whole.yaml") == pinned[0]


def test_another_content_is_another_recipe(shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path):
    run = shutil.copytree(trained[1], tmp_path / "other")
    settings = joined(shapes, tmp_path / "out", run)
    before = pin(settings)
    (run / "fitted.json").write_text((run / "fitted.json").read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert digest(pin(settings)) != digest(before)
    assert pin(before) == before  # what is pinned is kept
    elsewhere = before.model_copy(update={"storage": str(tmp_path / "new")})
    with pytest.raises(StartError, match="expected content of hash"):
        pin(elsewhere)


def test_settings_that_differ_are_all_named(shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path):
    settings = joined(shapes, tmp_path, trained[1], tokenizer="characters", max_tokens=9, stem="cnn")
    with pytest.raises(StartError) as caught:
        Here(settings)
    text = str(caught.value)
    assert "fields.caption.init" in text
    assert {f.split(":")[0] for f in caught.value.errors} == {"tokenizer", "max_tokens", "stem"}
    assert "tokenizer: is 'characters', but 'bpe' there" in text


def test_shapes_that_differ_are_all_named_and_nothing_is_changed(
    shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path
):
    settings = joined(shapes, tmp_path, trained[1])
    other = settings.model.model_copy(update={"dim": 48, "field_layers": 0})
    settings = pin(settings.model_copy(update={"model": other}))
    network = network_for(settings, build_index(settings).fitted)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(StartError) as caught:
        start(network, settings.model, settings.fields, settings.reads.starts)
    errors = caught.value.errors
    assert "embeddings.of_caption.field_D: is [48], but [32] there" in errors
    assert any(f.startswith("fusion.encoders.of_caption.layers.0") and "no place for it" in f for f in errors)
    assert len(errors) > 10
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_place_without_a_run_is_refused(shapes: EmojiLike, tmp_path: Path, place: str):
    with pytest.raises(StartError, match=r"fields.caption.init.*\n.*expected the folder of a run"):
        pin(joined(shapes, tmp_path, tmp_path / place))


def test_a_damaged_checkpoint_is_no_start(shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path):
    run = shutil.copytree(trained[1], tmp_path / "other")
    (run / "model.safetensors").unlink()
    path = run / "checkpoints" / "step-00000004" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(StartError, match="damaged"):
        pin(joined(shapes, tmp_path / "out", run))


def test_freezing_without_a_start_or_a_rate_is_an_error(shapes: EmojiLike, tmp_path: Path):
    with pytest.raises(RecipeError, match="`freeze` needs `init`"):
        recipe(shapes, tmp_path, {"caption": {**CAPTION, "freeze": True}})
    with pytest.raises(RecipeError, match="`lr_factor` has no effect"):
        recipe(shapes, tmp_path, {"caption": {**CAPTION, "freeze": True, "lr_factor": 0.5, "init": {"run": "x"}}})


def test_a_whole_model_starts_where_names_agree_and_heads_begin_anew(
    shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path
):
    first = Here(recipe(shapes, tmp_path / "a", BOTH))
    first.run()
    run = first.export(tmp_path / "run")
    more = {**BOTH, "size": {"modality": "table", "numbers": ["width", "height"]}}
    second = Here(recipe(shapes, tmp_path / "b", more, model={"init": {"run": str(run)}}, seed=3))
    got, want = second.network.state_dict(), first.network.state_dict()
    taken = {k for k in want if not k.startswith("heads")}
    assert all(torch.equal(got[k], want[k]) for k in taken)
    assert not torch.equal(got["heads.of_color.head.weight"], want["heads.of_color.head.weight"])
    assert any(k.startswith("fusion.joint") for k in taken)
    assert second.index.fitted["fields"]["caption"] == first.index.fitted["fields"]["caption"]
    assert len(second.said) == 3


def test_an_exported_model_needs_no_other_run(shapes: EmojiLike, trained: tuple[Here, Path], tmp_path: Path):
    run = shutil.copytree(trained[1], tmp_path / "other")
    folder = Here(joined(shapes, tmp_path / "out", run, freeze=True)).export(tmp_path / "model")
    shutil.rmtree(run)
    shutil.rmtree(tmp_path / "out")
    (found,) = Predictor.load(folder).predict([{"caption": "a very red disc"}])
    assert found["error"] is None
    assert found["color"]
