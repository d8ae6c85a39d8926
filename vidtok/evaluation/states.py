"""What a clip adds to summaries beyond its row: counts of token ids, features of fvd and fid.

A row carries it under the key `state` on its way to the summary; nobody else sees it. `pack` and `unpack` make it
text for a file of results; fid, whose covariances are 67 MB, is not kept there.
"""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import numpy as np

from vidtok.metrics import TokenStatistics
from vidtok.metrics.fid import FrameFeatures
from vidtok.metrics.fvd import Features
from vidtok.metrics.table import MetricSet

Array = np.ndarray[Any, Any]
State = dict[str, Any]


def state_of(measured: MetricSet, tokens: TokenStatistics | None) -> State:
    """{"tokens": packed counts, "fvd...": (samples, 2, 400) float32, "fid": two Gaussians}."""
    state: State = {"tokens": tokens.packed()} if tokens is not None else {}
    for name, features in measured.features.items():
        if isinstance(features, Features):
            state[name] = features.result().numpy()
        else:
            assert isinstance(features, FrameFeatures)
            state[name] = features.pair
    return state


def pack(state: State) -> dict[str, Any]:
    """As JSON has it; without fid."""
    return {name: _plain(value) for name, value in state.items() if name != "fid"}


def unpack(stored: dict[str, Any]) -> State:
    """What `pack` was given. ValueError, KeyError or the like where it is something else."""
    return {name: _arrays(value) for name, value in stored.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, _small(value), allow_pickle=False)
        return {"npy": base64.b64encode(zlib.compress(file.getvalue(), 6)).decode()}
    return value


def _small(array: Array) -> Array:
    """Integers in the fewest bytes that hold them."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    return array.astype(np.min_scalar_type(int(array.max())) if int(array.min()) >= 0 else array.dtype)


def _arrays(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"npy"}:
        return np.load(io.BytesIO(zlib.decompress(base64.b64decode(value["npy"]))), allow_pickle=False)
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return [_arrays(item) for item in value] if isinstance(value, list) else value
