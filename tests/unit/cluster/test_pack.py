"""Packing: what goes along and what stays, the size, and an archive that depends on content alone."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from interlace.cluster.pack import TooLargeError, check_size, collect, write


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
    tree(tmp_path, "data/big.parquet", "output/runs/r/run.json", "mlruns/0/meta.yaml", "mlflow.db", "mlflow.db-journal")
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
