"""The documentation cannot rot: every command has help with an example and stands in the README, and both run."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from vidtok.checkpoint import ALIASES, BUILT_IN
from vidtok.cli import COMMANDS, group
from vidtok.metrics.lpips import BACKBONES
from vidtok.model.conv import ConvConfig
from vidtok.model.quantizer import QUANTIZERS, QuantizerConfig
from vidtok.model.recurrent import RecurrentConfig
from vidtok.model.tokenizer import KINDS, ModelConfig
from vidtok.training.data import DataConfig, SourceConfig
from vidtok.training.losses import LOSSES, QUANTIZER_TERMS, LossConfig
from vidtok.training.optimizer import OptimizerConfig
from vidtok.training.plan import Stage, TrainConfig, ValidationConfig
from vidtok.training.prior import PriorData, PriorSizes, PriorTrainConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ORDER = ("encode", "decode", "info", "verify", "repack", "export", "import", "eval", "compare", "models")
TRAINING, PRIORS = (ROOT / "docs" / "training.md").read_text().split("## Training a prior")
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


def test_the_page_on_training_has_every_key_with_its_default() -> None:
    blocks = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", TRAINING, re.S)]
    loss = next(block.pop("losses")[0] for block in blocks if block.get("losses"))
    page = {key: value for block in blocks for key, value in block.items()}
    data, model = page["data"], page["model"]
    tables = [(TrainConfig, page), (Stage, page["stages"][0]), (ValidationConfig, page["validation"])]
    tables += [(OptimizerConfig, page["optimizer"]), (DataConfig, data), (SourceConfig, data["sources"][0])]
    tables += [(ModelConfig, model), (QuantizerConfig, model["quantizer"]), (LossConfig, loss)]
    for config, shown in tables:
        for name, default in defaults(config).items():
            if default is None:
                assert re.search(rf"^# {name} = ", TRAINING, re.M), name
            else:
                assert name in shown, f"{config.__name__}.{name}"
                assert default is dataclasses.MISSING or name == "sources" or shown[name] == default, name
        assert set(shown) <= {field.name for field in dataclasses.fields(config)}


def test_the_page_on_training_has_every_key_of_priors_with_its_default() -> None:
    (page,) = (tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", PRIORS, re.S))
    tables = [(PriorTrainConfig, page), (PriorData, page["data"]), (PriorSizes, page["model"])]
    for config, shown in tables:
        assert set(shown) == {field.name for field in dataclasses.fields(config)}
        for name, default in defaults(config).items():
            assert default is dataclasses.MISSING or name in ("folders", "model", "optimizer") or shown[name] == default
    assert page["optimizer"]["adam_rate"] == OptimizerConfig().adam_rate


def test_the_page_on_training_has_the_backbones_and_every_name() -> None:
    cells = [[cell.strip() for cell in row.split("|")] for row in TRAINING.splitlines() if row.startswith("| `")]
    for column, config in ((2, ConvConfig), (3, RecurrentConfig)):
        rows = [(re.findall("`(.*?)`", row[1]), row[column].split(", ")) for row in cells if len(row) == 6]
        shown = {name: text for names, texts in rows if texts != [""] for name, text in zip(names, texts, strict=True)}
        assert shown.pop("[model.backbone]") == ("conv", "recurrent")[column - 2]
        assert shown == {name: str(default) for name, default in defaults(config).items()}
    for name in (*LOSSES, *QUANTIZER_TERMS, "lpips"):
        assert any(f"`{name}`" in row[1] for row in cells), name
    for name in (*QUANTIZERS, *BACKBONES, *KINDS):
        assert f'"{name}"' in TRAINING, name


def defaults(config: type[Any]) -> dict[str, Any]:
    """Keys of a table with their defaults as TOML has them; MISSING where one has to be given."""
    found = {}
    for field in dataclasses.fields(config):
        if field.default_factory is dataclasses.MISSING and field.name not in ("stages", "data"):
            found[field.name] = list(field.default) if isinstance(field.default, tuple) else field.default
    return found


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
