# %% [markdown]
# # Interlace from Python
# A data set of emoji, looked at, trained on, searched, and predicted: every call has the names of its verb's flags,
# and what it gives back shows itself. Few steps, so that all of it takes a minute.

# %%
import os
import tempfile
from importlib.resources import files
from pathlib import Path

import pandas as pd

import interlace
from interlace.jobs.datasets.emoji import build

FOLDER = Path(os.environ.get("INTERLACE_EXAMPLE") or tempfile.mkdtemp())
DATA, STORAGE = FOLDER / "emoji", FOLDER / "output"
report = build(DATA)

# %% A recipe: a file, a mapping, or what `load_recipe` gave; `set` changes any of its settings
shipped = files("interlace.jobs") / "recipes" / "emoji.yaml"
small = {
    "data.root": DATA,
    "model.dim": 64,
    "train.epochs": None,
    "train.steps": 120,
    "train.eval_every": 20,
    "optim.lr": 4e-3,
}
recipe = interlace.load_recipe(shipped, set=small, storage=STORAGE)

# %% What the data holds, as a page
page = interlace.inspect(recipe, out=FOLDER / "inspect.html")
page

# %% Measured once, as a Ray Data job; kept in the cache
interlace.index(recipe).counts()

# %% A run: its results by the fields given to the model, and its curves
run = interlace.train(recipe, run_name="first")
run

# %% Everything it journaled, and where MLflow shows it
metrics = run.metrics()
metrics[["train/loss", "val/group/accuracy"]].dropna().tail(3)

# %%
run.mlflow_url

# %%
run.figures["contribution-group"]

# %% A model from any place; tables, rows and shards in, a table with every class's probability out
model = interlace.load_model(run)
test = pd.concat(pd.read_parquet(shard) for shard in sorted(DATA.glob("test-*.parquet")))
predictions = run.predict(test)
predictions.head()

# %%
accuracy = (predictions["group"].to_numpy() == test["group"].to_numpy()).mean()
rows = model.predict([{"name_en": "red apple"}, {"name_en": "flag: Norway"}], probabilities=True)
rows

# %% Whole shards into files, as a Ray Data job that goes on after a kill
written = interlace.predict(run, "test", FOLDER / "predictions", keep=["code"])
written.frame().head(3)

# %% Another split
evaluation = interlace.evaluate(run, "validation")
evaluation

# %% A search over settings; its page, its trials, the best of them
section = {"space": {"optim.lr": {"log_uniform": [1e-3, 1e-2]}}, "scheduler": "none"}
tree = {**recipe.model_dump(mode="json"), "search": section}
search = interlace.tune(tree, set={"train.steps": 20, "train.eval_every": 10}, trials=2)
search

# %%
search.trials()

# %%
best = search.best.recipe.optim.lr, search.best.run.metrics()["train/loss"].iloc[-1]
best

# %% Sources joined by a key into shards, and their section of a recipe
names, pictures = FOLDER / "names.parquet", FOLDER / "pictures.parquet"
test[["code", "name_en", "group"]].to_parquet(names, index=False)
test[["code", "image"]][::2].to_parquet(pictures, index=False)
sources = {name: {"paths": [str(path)], "key": "code"} for name, path in (("names", names), ("pictures", pictures))}
prepared = interlace.prepare({"name": "joined", "out": str(FOLDER / "joined"), "sources": sources})
prepared

# %%
prepared.data
