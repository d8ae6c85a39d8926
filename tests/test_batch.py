"""From inputs to jobs: names, mirrored trees, collisions, links, and what is no input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from vidtok import batch
from vidtok.batch import Job
from vidtok.errors import UsageError
from vidtok.workers import run


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def targets(plan: batch.Plan, base: Path) -> dict[str, str]:
    return {job.source.relative_to(base).as_posix(): job.target.relative_to(base).as_posix() for job in plan.jobs}


def test_one_file_without_output_lies_beside_it(tmp_path: Path) -> None:
    touch(tmp_path / "a.b.mp4")
    plan = batch.plan([str(tmp_path / "a.b.mp4")], None, suffix=".vtok")
    assert targets(plan, tmp_path) == {"a.b.mp4": "a.b.vtok"}


def test_one_file_with_output_is_that_file_or_in_that_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "folder").mkdir()
    source = str(tmp_path / "a.mp4")
    assert batch.plan([source], str(tmp_path / "x.bin"), suffix=".vtok").jobs[0].target == tmp_path / "x.bin"
    for folder in (f"{tmp_path}/folder", f"{tmp_path}/folder/", f"{tmp_path}/new/"):
        job = batch.plan([source], folder, suffix=".vtok").jobs[0]
        assert job.target == Path(folder, "a.vtok")


def test_folder_is_mirrored_and_only_media_taken(tmp_path: Path) -> None:
    tree = tmp_path / "in"
    touch(tree / "a.mp4", tree / "sub" / "b.MKV", tree / "notes.txt", tree / ".hidden.mp4", tree / ".git" / "c.mp4")
    (tree / "no_suffix").write_bytes(b"\0\0\0\x20ftypisom")
    plan = batch.plan([str(tree)], str(tmp_path / "out"), suffix=".vtok")
    assert targets(plan, tmp_path) == {
        "in/a.mp4": "out/a.vtok",
        "in/no_suffix": "out/no_suffix.vtok",
        "in/sub/b.MKV": "out/sub/b.vtok",
    }
    assert [path.name for path in plan.ignored] == ["notes.txt"]


def test_colliding_stems_get_full_names(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "a.mkv", tmp_path / "b.mp4")
    plan = batch.plan([str(tmp_path)], str(tmp_path / "out"), suffix=".vtok")
    assert targets(plan, tmp_path) == {
        "a.mkv": "out/a.mkv.vtok",
        "a.mp4": "out/a.mp4.vtok",
        "b.mp4": "out/b.vtok",
    }


def test_full_name_that_collides_again_moves_the_other_too(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "a.mkv", tmp_path / "a.mp4.mov")
    plan = batch.plan([str(tmp_path)], str(tmp_path / "out"), suffix=".vtok")
    assert len({job.target for job in plan.jobs}) == 3


def test_same_names_in_two_folders_keep_their_folder(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "a.mp4", tmp_path / "y" / "a.mp4")
    plan = batch.plan([str(tmp_path / "x"), str(tmp_path / "y")], str(tmp_path / "out"), suffix=".vtok")
    assert targets(plan, tmp_path) == {"x/a.mp4": "out/x/a.mp4.vtok", "y/a.mp4": "out/y/a.mp4.vtok"}


def test_names_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "a.mp4", tmp_path / "y" / "a.mp4")
    with pytest.raises(UsageError, match="would both become"):
        batch.plan([str(tmp_path / d / "a.mp4") for d in "xy"], str(tmp_path / "out"), suffix=".vtok")


def test_same_input_twice_is_one_job(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    names = [str(tmp_path / "a.mp4"), str(tmp_path / "*.mp4"), f"{tmp_path}/./b.mp4"]
    assert len(batch.plan(names, str(tmp_path / "out"), suffix=".vtok").jobs) == 2


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    tree = tmp_path / "in"
    touch(tree / "a.mp4", tmp_path / "outside" / "secret.mp4")
    (tree / "file.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")
    (tree / "folder").symlink_to(tmp_path / "outside")
    (tree / "inside.mp4").symlink_to(tree / "a.mp4")
    (tree / "loop").symlink_to(tree)
    names = {job.source.name for job in batch.plan([str(tree)], str(tmp_path / "out"), suffix=".vtok").jobs}
    assert names == {"a.mp4", "inside.mp4"}
    found = batch.plan([f"{tree}/**/*.mp4"], str(tmp_path / "out"), suffix=".vtok")
    assert "secret.mp4" not in {job.source.name for job in found.jobs}


def test_what_is_not_there_is_a_problem_and_the_rest_is_done(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    names = [str(tmp_path / name) for name in ("a.mp4", "gone.mp4", "*.avi", "dangling.mp4")]
    plan = batch.plan(names, str(tmp_path / "out"), suffix=".vtok")
    assert [job.source.name for job in plan.jobs] == ["a.mp4"]
    assert [reason for _, reason in plan.problems] == ["there is no such file", "no file matches", "a link to nowhere"]


def test_a_file_with_glob_characters_is_itself(tmp_path: Path) -> None:
    touch(tmp_path / "a[1].mp4")
    assert batch.plan([str(tmp_path / "a[1].mp4")], None, suffix=".vtok").jobs[0].source.name == "a[1].mp4"


def test_output_over_its_own_source_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.vtok")
    with pytest.raises(UsageError, match="own source"):
        batch.plan([str(tmp_path / "a.vtok")], None, suffix=".vtok")


def test_several_inputs_into_a_file_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "out")
    with pytest.raises(UsageError, match="is a file"):
        batch.plan([str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")], str(tmp_path / "out"), suffix=".vtok")


def test_list_keeps_names_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes("a b.mp4\n\n#c.mp4\r\nvidéo.mp4".encode())
    assert batch.read_list(str(tmp_path / "list")) == ["a b.mp4", "#c.mp4", "vidéo.mp4"]
    with pytest.raises(UsageError, match="--list"):
        batch.read_list(str(tmp_path / "none"))


def work(job: Job, tell: batch.Tell) -> dict[str, Any]:
    """What the workers of the tests below do, by the name of the source."""
    tell("warn", f"working on {job.source.name}")
    if job.source.name == "die":
        os.kill(os.getpid(), 9)
    if job.source.name == "fail":
        raise UsageError("cannot be done")
    if job.source.name == "break":
        raise RuntimeError("a bug\nof two lines")
    return {"name": job.source.name}


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_are_outcomes_and_the_rest_is_done(workers: int) -> None:
    names = ["a", "fail", "b", "break", "c"] + (["die", "d"] if workers > 1 else [])
    told: list[Any] = []
    jobs = [Job(source=Path(name), target=Path("t")) for name in names]
    outcomes = run(jobs, work, workers=workers, tell=lambda job, kind, value: told.append(value))
    found = {outcome.job.source.name: outcome for outcome in outcomes}
    assert set(found) == set(names) and len(told) == len(names)
    assert all(found[name].report == {"name": name} for name in names if name in "abcd")
    assert found["fail"].error == "cannot be done"
    assert (found["break"].error or "").startswith("internal error: RuntimeError: a bug of two lines")
    if workers > 1:
        assert "killed by SIGKILL" in (found["die"].error or "")
