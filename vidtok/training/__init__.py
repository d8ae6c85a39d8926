"""Training: `run(config, overrides)` is what `vidtok train` calls.

plan         TrainConfig: the TOML file, checked
data         clips; `initial`: weights to begin with; `losses`; `optimizer`
tokenizer    the loop; `prior`: the one for priors, with `ids` as its data and `quantized` as its network
report       log lines, validation (`validate`), TensorBoard (`board`)
monitor      when a run is given up
state        checkpoints and the log; `distributed`: several processes
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidtok.config import apply_overrides, load_toml
from vidtok.training import prior, tokenizer
from vidtok.training.distributed import is_first


def run(config_path: str | Path, overrides: Sequence[str] = (), **options: Any) -> Path:
    """Train what the TOML file describes, a tokenizer or (`kind = "prior"`) a prior; returns its file."""
    values = apply_overrides(load_toml(Path(config_path)), overrides)
    train = prior.run if values.get("kind") == "prior" else tokenizer.run
    return train(config_path, overrides, **options)


__all__ = ["is_first", "run"]
