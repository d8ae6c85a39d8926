"""Training: `run(config, overrides)` is what `vidtok train` calls."""

from vidtok.training.tokenizer import run

__all__ = ["run"]
