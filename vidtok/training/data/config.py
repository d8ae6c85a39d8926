"""What clips are drawn from, and how they vary."""

from __future__ import annotations

from dataclasses import dataclass

from vidtok.errors import ConfigError, UnknownNameError

WEIGHTS_PER = ("source", "file")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A folder of videos and pictures (searched recursively), one such file, or a list of them.

    A list is a .txt file with one path a line, relative to the list itself; lines that begin with # are comments.
    """

    path: str
    weight: float = 1.0  # chance relative to the other sources, see DataConfig.weight_per


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Sources, cache and variation of the clips. Lengths in frames, sizes in pixels, shares in 0..1."""

    folders: tuple[str, ...] = ()  # short for sources of weight 1
    sources: tuple[SourceConfig, ...] = ()
    weight_per: str = "source"  # source: draw one by weight, then one of its files; file: each file has the weight
    short_side: int = 256  # larger files are reduced to it
    max_frames: int = 400  # of each file, from its start; 0: all
    min_frames: int = 8  # a broken file that gives fewer is skipped
    cache: str = ""  # folder for decoded files, which later runs use too; empty: none
    cache_mb: int = 200_000  # at most so much in that folder
    memory_mb: int = 4_000  # decoded files in memory; what fits in neither is decoded whenever drawn
    workers: int = 2  # threads that decode and cut; 0: none, in the caller's
    image_share: float = 0.15  # clips made of a picture, where there are any
    double_rate: float = 0.15  # clips that leave out frames
    max_stride: int = 2  # taking each 2nd to each max_stride-th
    zoom_share: float = 0.3  # clips cut larger, or smaller, and scaled to the wanted size
    zoom_min: float = 1.0  # by at least this factor; below 1 enlarges
    zoom: float = 1.6  # by up to this factor
    aspect_share: float = 0.0  # clips squeezed in one direction
    aspect: float = 1.25  # by up to this factor
    reverse_share: float = 0.2  # clips played backwards

    def __post_init__(self) -> None:
        if self.weight_per not in WEIGHTS_PER:
            raise UnknownNameError("weight_per", self.weight_per, WEIGHTS_PER)
        for name in ("image_share", "double_rate", "zoom_share", "aspect_share", "reverse_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")
        least = {"short_side": 1, "max_stride": 1, "aspect": 1, "min_frames": 1}
        least |= dict.fromkeys(("max_frames", "cache_mb", "memory_mb", "workers"), 0)
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"{name} is at least {bound}, got {getattr(self, name)}")
        if not 0.1 <= self.zoom_min <= self.zoom:
            raise ConfigError(f"0.1 <= zoom_min <= zoom is wanted, got zoom_min {self.zoom_min} and zoom {self.zoom}")
        for source in self.sources:
            if not 0 < source.weight < float("inf"):
                raise ConfigError(f"the weight of {source.path!r} is above 0, got {source.weight}")

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        return (*(SourceConfig(path=folder) for folder in self.folders), *self.sources)
