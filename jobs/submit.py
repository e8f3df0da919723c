"""`interlace submit`: the same verb with the same recipe, run as a job of a cluster.

read (verb's flags, recipe) -> place (paths absolute) -> pack (folder, own code) -> submit -> follow -> exit code
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import interlace.cluster
import interlace.contract
from interlace.cluster.errors import JobError
from interlace.cluster.manifests import check
from interlace.cluster.pack import LIMIT_MB, PACKAGE, Package, check_size, collect, write
from interlace.cluster.render import IMAGE, Shape, render
from interlace.cluster.submission import Jobs, free_id
from interlace.jobs.console import say
from interlace.jobs.remote import follow_to_end
from interlace.recipe.given import changes_of
from interlace.recipe.identity import digest, flatten
from interlace.recipe.load import load_recipe
from interlace.recipe.prepare import load_preparation
from interlace.recipe.recipe import Recipe
from interlace.tune.check import load_search

VERBS = ("train", "tune", "prepare", "index", "evaluate", "predict")
"""What can be submitted: verbs whose result lies in the storage folder or where a flag says."""

PLACES = ("storage", "data.root", "data.cache_folder", "root", "out")
PLACE_ENDS = (".init.run", ".encoder.pretrained")
"""Settings that name a folder of this host; in a job they must not depend on the job's own folder."""

NAME = "interlace"
"""What the code of a job is imported by."""

OUTSIDE = ".interlace"
"""Folder of a package for a recipe from outside the working folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A verb as it runs in a job.

    Args:
        verb: its name.
        words: its arguments and flags, paths absolute, the recipe by its name in the package.
        job: what its job is called.
        folders: of data and results, which are never uploaded.
        recipe: file of the recipe on this host and its name in the package, if the verb reads one.
        settings: the recipe of `train`, `tune` and `index`.
        run: name of the run folder that `train` will have.
    """

    verb: str
    words: tuple[str, ...]
    job: str
    folders: tuple[Path, ...]
    recipe: tuple[Path, str] | None
    settings: Recipe | None
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How a job is handed in: see the flags of `interlace submit`."""

    address: str | None = None
    job_id: str | None = None
    detach: bool = False
    max_upload_mb: float = LIMIT_MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """What is written instead of a job that is handed in: see the flags of `interlace submit`."""

    target: str
    out: Path
    image: str
    queue: str | None = None
    max_upload_mb: float = LIMIT_MB


def order(command: Any, verb: str, words: Sequence[str], folder: Path, base: Path | None = None) -> Order:
    """Read a verb's arguments as the verb itself does, and make its paths independent of the current folder.

    Args:
        command: the command line's verbs.
        verb: one of `VERBS`.
        words: its arguments and flags.
        folder: the working folder.
        base: where relative folders of data and results are on the nodes; the working folder where not given.

    Raises:
        JobError: the verb can't be submitted, or a flag would show a password.
        InterlaceError: the recipe has errors.
        typer's UsageError: an argument or flag is wrong.
    """
    if verb not in VERBS:
        raise JobError(f"expected one of {', '.join(VERBS)} to submit, but is `{verb}`")
    if shown := [w for w in words if re.search(r"://[^/@\s]+@", w)]:
        raise JobError(
            f"{shown[0].split('://')[0]}://...: a password on the command line would be shown with the job;"
            " set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the nodes"
        )
    inner = command.commands[verb]
    given = inner.make_context(verb, list(words), resilient_parsing=False).params
    if given.get("address"):
        raise JobError("--address of a submitted verb is its cluster's own; it is --address of `submit`")
    absolute = {k: folder / v if isinstance(v, Path) else v for k, v in given.items()}
    if verb == "predict":
        absolute |= _of_predictions(given, folder)
    if given.get("recipe") is None:
        name = f"{verb}-{absolute['output'].name if verb == 'predict' else Path(given['run']).name}"
        return Order(
            verb=verb, words=(verb, *_words(inner, absolute)), job=_id(name), folders=_paths(absolute), recipe=None,
            settings=None, run="",
        )  # fmt: skip
    path, settings = absolute["recipe"], _settings(verb, given)
    flat = flatten(settings)
    places = {k: (base or folder) / str(v) for k, v in flat.items() if _is_relative_place(k, v)}
    run = given.get("run_name") or f"{settings.name}-{_digest(settings)}"
    inside = path.resolve().is_relative_to(folder.resolve())
    name = path.resolve().relative_to(folder.resolve()).as_posix() if inside else f"{OUTSIDE}/{path.name}"
    overrides = changes_of(given.get("overrides"), places)
    rest = {k: v for k, v in absolute.items() if k not in ("storage", "out")}  # they are settings, said by --set
    results = [str(v) for k, v in flat.items() if k in PLACES and v is not None]
    return Order(
        verb=verb,
        words=(verb, *_words(inner, {**rest, "recipe": name, "overrides": overrides})),
        job=_id(f"{verb}-{run}"),
        folders=tuple(folder / path for path in results),
        recipe=(path, name),
        settings=settings if isinstance(settings, Recipe) else None,
        run=run if verb == "train" else "",
    )


def shape(wanted: Order, image: str, queue: str | None) -> Shape:
    """What the rendered files must provide. Raises JobError for verbs without workers of their own."""
    settings = wanted.settings
    if settings is None:
        raise JobError(f"expected train, tune or index to render, but is `{wanted.verb}`")
    named = "--run-name" in wanted.words or not wanted.run
    return Shape(
        job=wanted.job,
        words=wanted.words if named else (*wanted.words, "--run-name", wanted.run),
        run=wanted.run,
        storage=next(w.removeprefix("storage=") for w in reversed(wanted.words) if w.startswith("storage=")),
        tracking_uri=settings.tracking.uri,
        workers=settings.world_sizes[-1],
        fewest=settings.world_sizes[0],
        train_labels=settings.train.labels,
        data_labels=settings.data.labels,
        cpus_per_worker=settings.train.cpus_per_worker,
        gpus_per_worker=settings.train.gpus_per_worker,
        image=image,
        queue=queue,
    )


def write_manifests(wanted: Order, folder: Path, rendering: Rendering) -> None:
    """Render a target's files, check them and write them, with the package for its image. Raises ClusterError."""
    out = rendering.out
    files = render(rendering.target, shape(wanted, rendering.image, rendering.queue))
    check(files)
    package = pack(wanted, folder, rendering.max_upload_mb) if IMAGE in files else None
    out.mkdir(parents=True, exist_ok=True)
    if package is not None:
        packed = write(package, out / PACKAGE)
        say(f"{out / PACKAGE}: {package} from {folder}, {packed / (1 << 20):.1f} MiB packed")
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
        edits = text.count("EDIT")
        say(f"{out / name}{f': {edits} places to fill in, marked EDIT' if edits else ''}")


def pack(wanted: Order, folder: Path, max_upload_mb: float) -> Package:
    """The working folder with the recipe and the code of this process in it. Raises TooLargeError, JobError."""
    package = collect(folder, wanted.folders).with_code(NAME, own_code())
    if wanted.recipe is not None and not package.holds(wanted.recipe[1]):
        path, name = wanted.recipe
        package = package.with_file(name, path)
    check_size(package, max_upload_mb)
    return package


def own_code() -> dict[str, Path]:
    """Where the code of this process lies, a checkout or an installed package: place in a job's folder -> folder."""
    cluster, contract = (Path(str(room.__file__)).parent for room in (interlace.cluster, interlace.contract))
    return {NAME: contract.parent, f"{NAME}/jobs": Path(__file__).parent, f"{NAME}/cluster": cluster}


def submit(wanted: Order, folder: Path, sending: Sending) -> int:
    """Hand a verb in and follow it to its end; the exit code it would have had on this host (0 with `detach`).

    Raises:
        ClusterError, ConnectionError: the cluster can't be reached or does not take the job.
        TooLargeError: there is too much to upload.
    """
    package = pack(wanted, folder, sending.max_upload_mb)
    jobs = Jobs(sending.address)
    for warning in jobs.version_warnings():
        say(f"note: {warning}")
    job_id = sending.job_id or free_id(wanted.job, jobs.list())
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "package.zip"
        packed = write(package, archive)
        say(f"uploading {package} from {folder}, {packed / (1 << 20):.1f} MiB packed")
        jobs.submit(job_id, wanted.words, archive)
    say(f"job {job_id}: {jobs.link(job_id)}")
    if sending.detach:
        say(f"`interlace logs -f {job_id}` follows it, `interlace stop {job_id}` ends it")
        return 0
    return follow_to_end(jobs, job_id)


def _of_predictions(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Model, shards and storage as a job finds them: names of runs, models and splits and URIs stay as they are."""
    model = given["model"]
    data = [d if "://" in d or re.fullmatch(r"\w+", d) else str(folder / d) for d in given["data"]]
    return {
        "model": str(folder / model) if (folder / model).exists() else model,
        "data": data,
        "storage": folder / (given["storage"] or "output"),
    }


def _settings(verb: str, given: Mapping[str, Any]) -> Any:
    """The settings as the verb will read them."""
    own = {"storage": given.get("storage"), "tracking.uri": given.get("tracking_uri"), "out": given.get("out")}
    overrides = changes_of(given.get("overrides"), own)
    if verb == "prepare":
        return load_preparation(given["recipe"], overrides)
    if verb == "tune":
        return load_search(given["recipe"], overrides)[0]
    return load_recipe(given["recipe"], overrides)


def _is_relative_place(key: str, value: Any) -> bool:
    if not isinstance(value, str) or not (key in PLACES or key.endswith(PLACE_ENDS)):
        return False
    return "://" not in value


def _digest(settings: Any) -> str:
    if isinstance(settings, Recipe):
        return digest(settings)[:8]
    return hashlib.sha256(json.dumps(flatten(settings), sort_keys=True).encode()).hexdigest()[:8]


def _paths(given: Mapping[str, Any]) -> tuple[Path, ...]:
    return tuple(v for v in given.values() if isinstance(v, Path))


def _id(name: str) -> str:
    """A submission id may hold what a URL's path may."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _words(command: Any, values: Mapping[str, Any]) -> list[str]:
    """Arguments and flags that give these values; what is a default is not said."""
    arguments, flags = [], []
    for parameter in command.params:
        value = values.get(parameter.name)
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        elif value is None or value == parameter.default:
            continue
        elif isinstance(value, bool):
            flags.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        elif isinstance(value, list | tuple):
            flags += [word for item in value for word in (parameter.opts[0], str(item))]
        else:
            flags += [parameter.opts[0], str(value)]
    return [*arguments, *flags]
