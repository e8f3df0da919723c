"""The script that a user would write without Interlace: the first two trials of `jobs/recipes/emoji.yaml`, in full.

Ray Data reads, decodes, augments and tokenises each epoch; a TorchTrainer of one worker trains a plain torch model of
the same sizes on padded batches of as many samples; a Tuner runs it with Ray's own MLflow callback. Written as Ray's
guides show it: `python -m tests.benchmarks.tune_script FOLDER_OF_EMOJI OUT`. The last line is the best accuracy.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.integration.ray_train import TuneReportCallback
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn

DATA, OUT = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
TEXTS = {"name_en": 1000, "name_zh": 1500, "name_ja": 1500, "name_de": 6000}
LENGTH, DIM, BATCH, EPOCHS, EVAL_EVERY = 32, 128, 42, 18, 70
TRIALS = [
    {"lr": 0.002, "weight_decay": 0.05, "fusion": "mid", "dropout": 0.3, "modality_dropout": 0.3},
    {"lr": 0.0007133, "weight_decay": 0.182, "fusion": "weighted_sum", "dropout": 0.3633, "modality_dropout": 0.3796},
]


class Preprocess:
    """Rows to padded arrays; pictures and texts are augmented in training."""

    def __init__(self, tokenizers, classes, training):
        self.tokenizers = {name: Tokenizer.from_str(text) for name, text in tokenizers.items()}
        self.classes, self.training = classes, training

    def __call__(self, batch):
        rng = np.random.default_rng()
        count = len(batch["group"])
        pictures = [self.picture(data, rng) if data is not None else np.zeros((32, 32, 3)) for data in batch["image"]]
        out = {
            "image": np.stack(pictures).astype(np.uint8),
            "has_image": np.array([data is not None for data in batch["image"]]),
            "label": np.array([self.classes[group] for group in batch["group"]], np.int64),
        }
        for name, tokenizer in self.tokenizers.items():
            ids = np.zeros((count, LENGTH), np.int64)
            for row, value in enumerate(batch[name]):
                found = tokenizer.encode(value).ids[:LENGTH] if value is not None else []
                if self.training:
                    found = [i for i in found if rng.random() > 0.2] or found
                ids[row, : len(found)] = np.array(found, np.int64) + 1
            out[name] = ids
        return out

    def picture(self, data, rng):
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32))
        if self.training:
            image = image.rotate(rng.uniform(-15, 15))
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image = ImageEnhance.Color(image).enhance(rng.uniform(0.8, 1.2))
        return np.asarray(image)


class TextStem(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = nn.Embedding(size + 1, DIM, padding_idx=0)
        self.place = nn.Parameter(torch.zeros(LENGTH, DIM))
        self.convolutions = nn.ModuleList(nn.Conv1d(DIM, DIM, 3, padding=1) for _ in range(2))

    def forward(self, ids):
        x = self.table(ids) + self.place
        for convolution in self.convolutions:
            x = x + F.gelu(convolution(x.transpose(1, 2)).transpose(1, 2))
        return x, ids == 0


class ImageStem(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [3, 32, 64, 96, DIM]
        strides = [1, 2, 2, 2]
        layers = []
        for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            layers += [nn.Conv2d(a, b, 3, stride, 1), nn.GroupNorm(8, b), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.place = nn.Parameter(torch.zeros(16, DIM))

    def forward(self, image, has_image):
        x = self.layers(image.permute(0, 3, 1, 2).float() / 127.5 - 1).flatten(2).transpose(1, 2) + self.place
        return x, (~has_image)[:, None].expand(-1, 16)


class Model(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        self.config = config
        self.image = ImageStem()
        self.texts = nn.ModuleDict({name: TextStem(size) for name, size in TEXTS.items()})
        layer = nn.TransformerEncoderLayer(
            DIM, 2, 4 * DIM, config["dropout"], "gelu", batch_first=True, norm_first=True
        )
        self.joint = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.weights = nn.Parameter(torch.zeros(1 + len(TEXTS)))
        self.dropout = nn.Dropout(config["dropout"])
        self.head = nn.Linear(DIM, classes)
        self.heads = nn.ModuleList(nn.Linear(DIM, classes) for _ in range(1 + len(TEXTS)))

    def forward(self, batch):
        fields = [self.image(batch["image"], batch["has_image"])]
        fields += [stem(batch[name]) for name, stem in self.texts.items()]
        if self.training:
            fields = [(x, mask | self.dropped(mask)) for x, mask in fields]
        pooled = [self.pool(x, mask) for x, mask in fields]
        if self.config["fusion"] == "mid":
            x, mask = torch.cat([x for x, _ in fields], 1), torch.cat([mask for _, mask in fields], 1)
            mask = mask & ~mask.all(1, keepdim=True)
            whole = self.pool(self.joint(self.dropout(x), src_key_padding_mask=mask), mask)
        else:
            there = torch.stack([~mask.all(1) for _, mask in fields], 1)
            weights = torch.softmax(self.weights.masked_fill(~there, -1e4), 1)
            whole = (torch.stack(pooled, 1) * weights[..., None]).sum(1)
        return self.head(self.dropout(whole)), [head(p) for head, p in zip(self.heads, pooled, strict=True)], fields

    def dropped(self, mask):
        return (torch.rand(len(mask), 1) < self.config["modality_dropout"]).expand_as(mask)

    def pool(self, x, mask):
        return x.masked_fill(mask[..., None], -1e4).amax(1).clamp_min(-10)


def train_func(config):
    torch.set_num_threads(1)
    model = ray.train.torch.prepare_model(Model(config, config["classes"]))
    optimizer = torch.optim.AdamW(model.parameters(), config["lr"], weight_decay=config["weight_decay"])
    steps = EPOCHS * config["batches"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config["lr"], steps, pct_start=0.1)
    shard = ray.train.get_dataset_shard("train")
    step = 0
    for _ in range(EPOCHS):
        for batch in shard.iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=400):
            model.train()
            with torch.autocast("cpu", torch.bfloat16):
                logits, singles, _ = model(batch)
                loss = F.cross_entropy(logits, batch["label"], label_smoothing=0.1)
                for single in singles:
                    loss = loss + F.cross_entropy(single, batch["label"], label_smoothing=0.1) / len(singles)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step < steps - 1:
                schedule.step()
            step += 1
            if step % EVAL_EVERY == 0:
                report(model, step, float(loss))


def report(model, step, loss):
    model.eval()
    right = count = 0
    with torch.no_grad():
        for batch in ray.train.get_dataset_shard("validation").iter_torch_batches(batch_size=BATCH):
            right += int((model(batch)[0].argmax(1) == batch["label"]).sum())
            count += len(batch["label"])
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "model.pt")
        metrics = {"accuracy": right / count, "loss": loss, "step": step}
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def trial(config):
    tokenizers, classes = config.pop("tokenizers"), config["classes"]
    datasets = {}
    for split in ("train", "validation"):
        rows = ray.data.read_parquet([str(p) for p in sorted(DATA.glob(f"{split}-*.parquet"))])
        step = Preprocess(tokenizers, classes, split == "train")
        datasets[split] = rows.map_batches(step, batch_size=BATCH)
    trainer = ray.train.torch.TorchTrainer(
        train_func,
        train_loop_config={**config, "classes": len(classes)},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        datasets=datasets,
        run_config=ray.train.RunConfig(
            name=f"trial-{tune.get_context().get_trial_id()}",
            storage_path=str(OUT / "train"),
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def main():
    ray.init(num_cpus=3, include_dashboard=False)  # for the trial, its worker and data: with 2 it waits for ever
    rows = ray.data.read_parquet([str(p) for p in sorted(DATA.glob("train-*.parquet"))]).to_pandas()
    tokenizers = {}
    for name, size in TEXTS.items():
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        texts = [text for text in rows[name] if isinstance(text, str)]
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=["[UNK]"]))
        tokenizers[name] = tokenizer.to_str()
    classes = {group: number for number, group in enumerate(sorted(set(rows["group"])))}
    fixed = {"tokenizers": tokenizers, "classes": classes, "batches": -(-len(rows) // BATCH)}
    tuner = tune.Tuner(
        lambda config: trial({**fixed, **config["settings"]}),
        param_space={"settings": tune.grid_search(TRIALS)},
        tune_config=tune.TuneConfig(metric="accuracy", mode="max", max_concurrent_trials=1),
        run_config=tune.RunConfig(
            storage_path=str(OUT / "tune"),
            callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{OUT}/mlflow.db", experiment_name="script")],
        ),
    )
    results = tuner.fit()
    assert not results.errors, results.errors
    sys.stdout.write(f"best {results.get_best_result().metrics['accuracy']:.4f}\n")


if __name__ == "__main__":
    main()
