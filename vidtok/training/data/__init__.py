"""Clips for training, decoded in threads, a few batches ahead of the model.

    config     DataConfig: what `[data]` in a training file says
    sources    folders and lists -> Media: files that open, with length and size
    store      frames of a Media: decoded once to disk or memory, or on the fly
    sampling   Clips: a random clip, a function of (seed, step, place in the batch) alone
    loader     Loader: batches in order, cut by rank, drawn ahead by threads

Nothing is drawn from anything but (seed, step, place): a resumed run, two processes or four threads see the
batches that one uninterrupted process without threads would.
"""

from vidtok.training.data.config import DataConfig, SourceConfig
from vidtok.training.data.loader import Loader
from vidtok.training.data.sampling import Clips
from vidtok.training.data.sources import Media

__all__ = ["Clips", "DataConfig", "Loader", "Media", "SourceConfig"]
