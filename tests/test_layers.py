"""Who may import whom: each layer only what stands before it, and the big libraries only where they belong."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vidtok"

# `api` is vidtok/__init__.py: lazy functions over checkpoint, codec and bitstream.
LAYERS = [
    {"errors"},
    {"prefetch"},
    {"geometry"},
    {"tokens", "config"},
    {"video", "bitstream"},
    {"model"},
    {"metrics", "checkpoint"},
    {"codec", "report"},
    {"api"},
    {"batch", "compare"},
    {"workers", "evaluation"},
    {"evaluate", "bench", "training"},
    {"cli"},
    {"main"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
SPECIAL = {"__init__": "api", "__main__": "main"}

# library: the parts (folders or files) that may import it
ONLY = {
    "av": ("video/",),
    "vector_quantize_pytorch": ("model/quantizer.py",),
    "click": ("cli/",),
    "tqdm": ("cli/",),
    "torch": ("model/", "metrics/", "training/", "checkpoint.py", "codec", "bench.py"),
}


def layer_of(parts: tuple[str, ...]) -> str:
    """('vidtok', 'bitstream', 'bits') -> 'bitstream'."""
    name = parts[1] if len(parts) > 1 else "__init__"
    return SPECIAL.get(name, name)


def imports(path: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """(dotted name as parts, line) of everything imported anywhere in a file, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((tuple(alias.name.split(".")), node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno}: relative import"
            base = tuple(node.module.split("."))
            whole_package = base == ("vidtok",)
            yield from (((*base, alias.name) if whole_package else base, node.lineno) for alias in node.names)


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def test_every_module_has_a_layer() -> None:
    found = {layer_of(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files()}
    assert found <= set(RANK), f"give a place in LAYERS to {found - set(RANK)}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_left(path: Path) -> None:
    own = layer_of(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    culprits = []
    for name, line in imports(path):
        if name[0] != "vidtok" or own == "api":
            continue
        other = layer_of(name)
        if other == "api" and len(name) > 1 and not (PACKAGE / name[1]).exists():
            other = "api"
        if other in RANK and other != own and RANK[other] >= RANK[own]:
            culprits.append(f"{path.name}:{line}: {own} imports {other}, which does not stand before it")
    assert not culprits, "\n".join(culprits)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    inside = path.relative_to(PACKAGE).as_posix()
    culprits = [
        f"{inside}:{line}: imports {name[0]}, which only {', '.join(ONLY[name[0]])} may"
        for name, line in imports(path)
        if name[0] in ONLY and not inside.startswith(ONLY[name[0]])
    ]
    assert not culprits, "\n".join(culprits)


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.name)
def test_commands_import_only_click_at_start(path: Path) -> None:
    light = {"vidtok", "vidtok.errors", "vidtok.batch", "vidtok.workers"}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            for name in names:
                standard = name.split(".")[0] in sys.stdlib_module_names
                assert standard or name == "click" or name in light or name.startswith("vidtok.cli"), name
