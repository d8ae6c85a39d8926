"""Training: `run(config, overrides)` is what `vidtok train` calls.

plan         TrainConfig: the TOML file, checked
data         clips; `initial`: weights to begin with; `losses`; `optimizer`
tokenizer    the loop
report       log lines, validation (`validate`), TensorBoard (`board`)
monitor      when a run is given up
state        checkpoints and the log; `distributed`: several processes
"""

from vidtok.training.distributed import is_first
from vidtok.training.tokenizer import run

__all__ = ["is_first", "run"]
