"""Packing: what goes along and what stays, the size, and an archive that depends on content alone."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from interlace.cluster.errors import JobError
from interlace.cluster.pack import PACKAGE, TooLargeError, check_size, collect, write


def tree(folder: Path, *names: str, size: int = 1) -> None:
    """Write files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * size)


def names(folder: Path, *leave_out: Path) -> list[str]:
    return [item.name for item in collect(folder, leave_out).items]


def test_what_no_job_needs_stays_behind(tmp_path: Path) -> None:
    kept = ("train.py", "pipeline/data/plan/plan.py", "jobs/recipes/a.yaml", "docs/runs/notes.md")
    tree(tmp_path, *kept)
    tree(
        tmp_path, ".git/HEAD", "env/pyvenv.cfg", "env/lib/torch.so", "a/__pycache__/a.cpython-311.pyc", "x.egg-info/top"
    )
    tree(
        tmp_path,
        PACKAGE,
        f"place/{PACKAGE}",
        "data/big.parquet",
        "output/runs/r/run.json",
        "mlruns/0/meta.yaml",
        "mlflow.db",
        "mlflow.db-journal",
    )
    assert names(tmp_path) == sorted(kept)


def test_files_that_are_likely_secrets_stay_behind(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "a.py",
        ".env",
        ".env.prod",
        "deploy/tls.key",
        "deploy/ca.pem",
        ".netrc",
        "home/.ssh/id_rsa",
        "auth_token",
    )
    tree(tmp_path, ".gitignore")
    (tmp_path / ".gitignore").write_text("!.env\n!auth_token\n")
    assert names(tmp_path) == [".gitignore", "a.py"]


def test_ignore_files_count_as_in_git(tmp_path: Path) -> None:
    """The reference is git itself."""
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("*.log\n/top.txt\nscratch/\n!keep.log\nsub/*.tmp\n# not this\n**/cold/*.bin\n")
    (tmp_path / "sub" / ".gitignore").write_text("local.txt\n!again.log\n/deep/only.txt\n")
    tree(
        tmp_path, "a.log", "keep.log", "top.txt", "sub/top.txt", "scratch/x", "sub/scratch/y", "sub/a.tmp",
        "sub/deep/a.tmp", "sub/local.txt", "local.txt", "sub/again.log", "sub/deep/only.txt", "sub/deep/local.txt",
        "sub/cold/z.bin", "# not this", "sub/deep/again.log",
    )  # fmt: skip
    git = ["git", "-c", "init.defaultBranch=main", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    told = subprocess.run(
        [*git, "-c", "core.excludesFile=/dev/null", "ls-files", "-z", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert names(tmp_path) == sorted(told.split("\0")[:-1])
    assert "sub/again.log" in names(tmp_path)


def test_rayignore_counts_too(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "big/a.bin")
    (tmp_path / ".rayignore").write_text("big/\n")
    assert names(tmp_path) == [".rayignore", "a.py"]


def test_folders_of_data_and_runs_stay_behind_wherever_they_are(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "my/results/runs/r/model.safetensors", "my/b.py")
    assert names(tmp_path, tmp_path / "my" / "results", Path("/elsewhere"), tmp_path) == ["a.py", "my/b.py"]


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    work, far = tmp_path / "work", tmp_path / "far"
    tree(work, "a.py")
    tree(far, "b.py", "c.py")
    (work / "link.py").symlink_to(far / "b.py")
    (work / "folder").symlink_to(far)
    (work / "dangling").symlink_to(far / "gone")
    os.mkfifo(work / "pipe")
    package = collect(work)
    assert [i.name for i in package.items] == ["a.py", "link.py"]
    assert package.size == len("a.py") + len("b.py")


def test_too_much_is_refused_with_the_largest_named(tmp_path: Path) -> None:
    tree(tmp_path, "models/big.bin", size=200_000)
    tree(tmp_path, "a.py", "notes/long.txt", size=30_000)
    package = collect(tmp_path)
    check_size(package, 10.0)
    with pytest.raises(TooLargeError) as caught:
        check_size(package, 1.0)
    text = str(caught.value)
    assert text.index("models/: 2.7 MiB") < text.index("models/big.bin: 2.7 MiB")
    assert "at most 1 MiB" in text
    assert ".rayignore" in text


def test_code_goes_along_whole_in_one_folder_and_its_caches_stay(tmp_path: Path) -> None:
    """Parts of a checkout become one package; what is left out of a working folder by name is code's own here."""
    work, code, verbs = tmp_path / "work", tmp_path / "library", tmp_path / "verbs"
    tree(work, "a.py", ".gitignore")
    (work / ".gitignore").write_text("*.yaml\n")
    tree(code, "__init__.py", "data/read.py", "runs/x.py", "__pycache__/a.cpython-311.pyc", "data/.mypy_cache/x")
    tree(verbs, "__init__.py", "recipes/r.yaml", "data/__pycache__/a.pyc")
    package = collect(work).with_code("lib", {"lib": code, "lib/verbs": verbs})
    assert {item.name: item.path for item in package.items} == {
        ".gitignore": work / ".gitignore",
        "a.py": work / "a.py",
        "lib/__init__.py": code / "__init__.py",
        "lib/data/read.py": code / "data" / "read.py",
        "lib/runs/x.py": code / "runs" / "x.py",
        "lib/verbs/__init__.py": verbs / "__init__.py",
        "lib/verbs/recipes/r.yaml": verbs / "recipes" / "r.yaml",
    }
    assert [item.name for item in package.items] == sorted(item.name for item in package.items)


def test_parts_that_lie_in_the_code_already_are_packed_once(tmp_path: Path) -> None:
    tree(tmp_path / "lib", "__init__.py", "verbs/__init__.py")
    folders = {"lib": tmp_path / "lib", "lib/verbs": tmp_path / "lib" / "verbs"}
    whole = collect(tmp_path).with_code("lib", folders)  # the working folder is where the code lies
    assert [item.name for item in whole.items] == ["lib/__init__.py", "lib/verbs/__init__.py"]
    (tmp_path / "empty").mkdir()
    alone = collect(tmp_path / "empty").with_code("lib", folders)
    assert alone == whole


@pytest.mark.parametrize("mine", ["lib.py", "lib/__init__.py", "lib/data.csv"])
def test_something_else_of_the_codes_name_is_refused(tmp_path: Path, mine: str) -> None:
    tree(tmp_path / "code", "__init__.py")
    tree(tmp_path / "work", "a.py", "library.py", "my/lib.py", "my/lib/__init__.py", mine)
    folders = {"lib": tmp_path / "code"}
    with pytest.raises(JobError, match=rf"has `{mine}`, but the job's own code goes along under the name `lib`"):
        collect(tmp_path / "work").with_code("lib", folders)
    (tmp_path / "work" / ".rayignore").write_text("/lib*\n")
    left = {item.name for item in collect(tmp_path / "work").with_code("lib", folders).items}
    assert left == {".rayignore", "a.py", "my/lib.py", "my/lib/__init__.py", "lib/__init__.py"}


def test_the_archive_depends_on_content_alone(tmp_path: Path) -> None:
    for i in (0, 1):
        tree(tmp_path / f"w{i}", *(("b.sh", "x/a.py") if i else ("x/a.py", "b.sh")))
        (tmp_path / f"w{i}" / "b.sh").chmod(0o755)
        os.utime(tmp_path / f"w{i}" / "x" / "a.py", (i, i))
        write(collect(tmp_path / f"w{i}"), tmp_path / f"{i}.zip")
    assert (tmp_path / "0.zip").read_bytes() == (tmp_path / "1.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "0.zip") as archive:
        assert archive.namelist() == ["b.sh", "x/a.py"]
        assert archive.getinfo("b.sh").external_attr >> 16 & 0o777 == 0o755
        assert archive.read("x/a.py") == b"x/a.py"
