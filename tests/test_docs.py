"""The documentation cannot rot: every command has help with an example and stands in the README, and both run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from vidtok.checkpoint import ALIASES, BUILT_IN
from vidtok.cli import COMMANDS, group

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ORDER = ("encode", "decode", "info", "verify", "repack", "export", "import", "eval", "compare", "models")
SLOW = ("train", "bench")  # their own tests run them small


def help_of(name: str) -> str:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    with click.Context(command, info_name=f"vidtok {name}", terminal_width=100) as context:
        return command.get_help(context)


def examples(name: str) -> list[str]:
    return re.findall(rf"^ +(vidtok {name}\b.*)$", help_of(name).split("Example:")[-1], re.M)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help_an_example_and_a_place_in_the_readme(name: str) -> None:
    text = help_of(name)
    assert examples(name), f"{name} --help shows no example"
    assert len(text.splitlines()[2].strip()) > 20, f"{name} --help says nothing"
    assert f"vidtok {name}" in README or f"`{name}`" in README, f"the README does not know {name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_without_help(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    bare = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not bare


def test_readme_says_what_it_is_not() -> None:
    assert "microsoft/VidTok" in README


def test_readme_names_only_files_that_are_there() -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert linked and all((ROOT / name).exists() for name in linked), linked


@pytest.mark.skipif(not (BUILT_IN / f"{ALIASES['default']}.safetensors").exists(), reason="no default model yet")
def test_examples_of_help_and_readme_run(
    run: Callable[..., Any], make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4", frames=20, width=192, height=176)
    (tmp_path / "videos").mkdir()
    shutil.copy("clip.mp4", "videos/one.mp4")
    readme = re.findall(r"^\$ (vidtok .*)$", README, re.M)
    assert len(readme) >= 4
    for line in [*readme, *(line for name in ORDER for line in examples(name))]:
        if line.split()[1] in SLOW:
            continue
        arguments = shlex.split(line)[1:]
        writes = "-o" in arguments and not Path(arguments[arguments.index("-o") + 1]).is_dir()
        ran = run(*arguments, *(["--force"] if writes else []))
        assert ran.code == 0, f"{line}\n{ran.err}"
