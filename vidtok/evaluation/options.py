"""All that an evaluation can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtok.codec import EncodeOptions
from vidtok.errors import UsageError
from vidtok.evaluation import codecs, protocols
from vidtok.metrics import DEFAULT_METRICS, DIALECTS, parse_metrics
from vidtok.metrics.fvd import Sampling

Row = dict[str, Any]
Progress = Callable[[int, int | None], None]
Warn = Callable[[str], None]

READING = ("resize", "enlarge", "fps", "start", "frames", "segment_frames", "entropy", "refine", "strict", "max_pixels")
"""What of EncodeOptions decides which frames are measured, and the bytes."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to measure, on which models and codecs; `encode` says how sources are read and encoded (its model,
    quality, audio and target are not used; its `strict` also refuses metrics that cannot be had, before any work).
    """

    metrics: tuple[str, ...] = (*DEFAULT_METRICS, "tokens")
    models: tuple[str, ...] = ("default",)  # may be empty beside codecs
    qualities: tuple[int | None, ...] = (None,)  # None: the model's default
    codecs: tuple[str, ...] = ()  # x264:crf=18..40:preset=medium
    anchor: str = ""  # model or codec that Bjontegaard deltas are against; "": the first codec, else the first model
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    protocol: str = ""  # a published way to evaluate; fixes what it names of `encode` and `fvd`
    fvd: Sampling = field(default_factory=Sampling)
    per_frame: bool = False  # rows have the values of all frames under `per_frame`
    weights: str = ""  # file or folder with weights of metrics
    offline: bool = True  # weights are not fetched
    save: Path | None = None  # folder for videos of source (left) and result (right)
    results: Path | None = None  # file that gets every row as a line of JSON, with what --resume needs
    resume: bool = False  # go on from `results`
    workers: int = 1  # processes, one clip each

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", parse_metrics(self.metrics))
        if self.protocol:
            for name, value in protocols.settle(self.protocol, self.encode, self.fvd).items():
                object.__setattr__(self, name, value)
        if not (self.models and self.qualities) and not self.codecs:
            raise UsageError("nothing to evaluate: give at least one model and one quality, or a codec")
        if self.resume and self.results is None:
            raise UsageError("--resume goes on from a file of results; say which with --output FILE")
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: at least 1")
        for text in self.codecs:
            codecs.parse_codec(text)

    @property
    def settings(self) -> Row:
        """What decides the numbers, apart from models, codecs and files: two runs are comparable if it is equal."""
        return {
            "metrics": list(self.metrics),
            "dialects": {name: DIALECTS[name] for name in self.metrics if name in DIALECTS},
            "protocol": self.protocol or None,
            "reading": {name: getattr(self.encode, name) for name in READING}
            | {"segment_frames": self.encode.segment_frames or 0},
            "precision": self.encode.precision,
            "fvd_samples": self.fvd.words,
            "per_frame": self.per_frame,
        }
