"""Many files at once: what to read, what to write, and doing one of them.

    inputs (files, globs, folders, lists)  --plan-->  jobs (source, target)  --attempt-->  outcomes

A folder's tree is mirrored under the output folder. Nothing outside a folder is read through its links. Names
are stem + suffix, full name + suffix where two inputs would collide.
"""

from __future__ import annotations

import glob
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtok.errors import UsageError, VidtokError

_SUFFIXES = """
    mp4 m4v mov qt mkv webm avi ts mts m2ts mpg mpeg m2v vob flv f4v wmv asf 3gp 3g2 ogv ogm mxf gif apng y4m
    h264 264 hevc h265 265 av1 obu ivf nut dv rm rmvb divx mjpeg mjpg
    png jpg jpeg webp bmp tif tiff ppm pgm pnm tga
"""
MEDIA_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
_MEDIA_MAGIC = (
    *(b"\x1aE\xdf\xa3", b"GIF8", b"\x89PNG", b"\xff\xd8\xff"),
    *(b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1", b"YUV4MPEG2"),
)

Tell = Callable[[str, Any], None]
"""How work reports on its way: tell("progress", (done, total)) in frames, tell("warn", text)."""
Work = Callable[["Job", Tell], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One input and where its output goes."""

    source: Path
    target: Path


@dataclass(kw_only=True)
class Plan:
    """What to do: jobs, inputs that cannot be jobs (name, reason), and files of folders left alone."""

    jobs: list[Job] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    into_folder: bool = False  # the output named is a folder, to be made where it is not there


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended: `report` of the work, or one line of `error` (and the `trace` for --debug)."""

    job: Job
    report: dict[str, Any] | None = None
    error: str | None = None
    trace: str = ""
    wrong_usage: bool = False  # the options were at fault, not the file
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file to read; `inside` is its path within the input folder `root` (None: it was named itself)."""

    path: Path
    inside: Path
    root: Path | None = None

    def target(self, suffix: str, level: int) -> Path:
        """Relative output name: 0 stem, 1 full name, 2 full name under the folder's own name."""
        name = (self.inside.stem if level == 0 else self.inside.name) + suffix
        mirrored = self.inside.with_name(name)
        return Path(self.root.resolve().name, mirrored) if level == 2 and self.root is not None else mirrored


def looks_like_media(path: Path) -> bool:
    """Whether a file found in a folder is a video or picture, by its suffix or its first bytes."""
    if path.suffix.lower() in MEDIA_SUFFIXES:
        return True
    head = _first_bytes(path, 16)
    riff = head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP")
    return riff or head[4:8] == b"ftyp" or head.startswith(_MEDIA_MAGIC)


def looks_like_tokens(path: Path) -> bool:
    """Whether a file is a token file, by its magic."""
    from vidtok.bitstream.header import MAGIC

    return _first_bytes(path, len(MAGIC)) == MAGIC


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def read_list(path: str) -> list[str]:
    """The inputs named in a file, a path per line; '-' is stdin. Blank lines are skipped."""
    import sys

    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as exc:
        raise UsageError(f"--list {path}: {exc.strerror}; give a file with a path per line") from exc
    return [os.fsdecode(line) for line in data.splitlines() if line.strip()]


def plan(
    inputs: Iterable[str],
    output: str | None,
    *,
    suffix: str,
    accept: Callable[[Path], bool] = looks_like_media,
) -> Plan:
    """Jobs for `inputs`; `accept` chooses among the files of folders. UsageError where the names cannot work.

    Without `output` each result lies beside its source. One input file: `output` is a file (or an existing
    folder); several, or a folder: `output` is a folder.
    """
    result = Plan()
    names = list(inputs)
    found = _dedupe(f for name in names for f in _find(name, result, accept))
    single = len(names) == 1 and len(found) + len(result.problems) == 1 and all(f.root is None for f in found)
    if single and found and output is not None and not (output.endswith(os.sep) or Path(output).is_dir()):
        result.jobs = [Job(source=found[0].path, target=Path(output))]
    elif output is not None and not single and Path(output).exists() and not Path(output).is_dir():
        raise UsageError(f"{output} is a file, and several inputs need a folder; give another -o")
    else:
        result.jobs = _name(found, output, suffix)
        result.into_folder = output is not None
    for job in result.jobs:
        if _same_file(job.source, job.target):
            raise UsageError(f"{job.target} would be written over its own source; give another -o")
    return result


def _find(name: str, result: Plan, accept: Callable[[Path], bool]) -> Iterator[_Found]:
    path = Path(name)
    if path.is_dir():
        yield from _walk(path, result, accept)
    elif path.exists():
        yield _Found(path=path, inside=Path(path.name))
    elif glob.has_magic(name):
        yield from _glob(name, result)
    else:
        result.problems.append((name, "a link to nowhere" if path.is_symlink() else "there is no such file"))


def _walk(root: Path, result: Plan, accept: Callable[[Path], bool]) -> Iterator[_Found]:
    """Files of a folder in order of name, hidden ones left out, links only where they stay inside."""

    def unreadable(exc: OSError) -> None:
        result.problems.append((str(exc.filename), exc.strerror or "cannot be read"))

    for folder, subfolders, files in os.walk(root, onerror=unreadable):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for path in (Path(folder, file) for file in sorted(files) if not file.startswith(".")):
            if _leads_out(path, root):
                result.ignored.append(path)
            elif path.is_file() and accept(path):
                yield _Found(path=path, inside=path.relative_to(root), root=root)
            else:
                result.ignored.append(path)


def _glob(pattern: str, result: Plan) -> Iterator[_Found]:
    """Files that match. `**` goes through no links, and the tree below where it starts is mirrored."""
    files = [Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if Path(match).is_file()]
    if not files:
        result.problems.append((pattern, "no file matches"))
    if "**" not in pattern:
        yield from (_Found(path=file, inside=Path(file.name)) for file in files)
        return
    start = Path(pattern.partition("**")[0] or ".")
    for file in files:
        inside = file.relative_to(start)
        if any(Path(start, folder).is_symlink() for folder in inside.parents) or _leads_out(file, start):
            result.ignored.append(file)
        else:
            yield _Found(path=file, inside=inside, root=start)


def _leads_out(path: Path, root: Path) -> bool:
    return path.is_symlink() and not path.resolve().is_relative_to(root.resolve())


def _dedupe(found: Iterable[_Found]) -> list[_Found]:
    return list({os.path.abspath(item.path): item for item in found}.values())


def _name(found: Sequence[_Found], output: str | None, suffix: str) -> list[Job]:
    """Targets for all; whoever collides gets a longer name, until nobody does."""

    def target(item: _Found) -> Path:
        if output is None:
            return item.path.parent / item.target(suffix, min(levels[item], 1)).name
        return Path(output) / item.target(suffix, levels[item])

    levels = dict.fromkeys(found, 0)
    while True:
        counts = Counter(os.path.normcase(target(item)) for item in found)
        colliding = [item for item in found if counts[os.path.normcase(target(item))] > 1]
        if not colliding:
            return [Job(source=item.path, target=target(item)) for item in found]
        if all(levels[item] == 2 for item in colliding):
            names = " and ".join(str(item.path) for item in colliding[:2])
            raise UsageError(f"{names} would both become {target(colliding[0])}; run them apart")
        for item in colliding:
            levels[item] = min(levels[item] + 1, 2)


def _same_file(source: Path, target: Path) -> bool:
    try:
        return source.samefile(target)
    except OSError:
        return False


def describe_failure(exc: Exception) -> str:
    """One line for an exception that is not one of ours."""
    text = " ".join(str(exc).split())
    if isinstance(exc, MemoryError) or "can't allocate memory" in text or "out of memory" in text.lower():
        return "not enough memory; try a smaller --tile or --chunk-frames, or --resize"
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return f"internal error: {type(exc).__name__}: {text[:300]}; --debug shows where"


def attempt(job: Job, work: Work, tell: Tell) -> Outcome:
    """Do one job; whatever it raises becomes the outcome's error."""
    started = time.perf_counter()
    report, error, trace, usage = None, None, "", False
    try:
        report = work(job, tell)
    except Exception as exc:
        error = str(exc) if isinstance(exc, VidtokError) else describe_failure(exc)
        trace, usage = traceback.format_exc(), isinstance(exc, UsageError)
    seconds = time.perf_counter() - started
    return Outcome(job=job, report=report, error=error, trace=trace, wrong_usage=usage, seconds=seconds)
