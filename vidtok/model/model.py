"""`Model`: what `vidtok.load` returns. Arrays in, tokens out, and back, without files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidtok.errors import UsageError
from vidtok.geometry import Geometry
from vidtok.model.stream import DecodeStream, EncodeStream, Schedule
from vidtok.model.tokenizer import ModelConfig, Tokenizer
from vidtok.tokens import Tokens

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Model:
    """A tokenizer with weights, name and content id, on a device, computing in one precision."""

    def __init__(
        self, tokenizer: Tokenizer, *, name: str, model_id: str, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.tokenizer = tokenizer.to(device)
        self.name, self.model_id = name, model_id
        self.device, self.precision, self.dtype = device, precision, PRECISIONS[precision]

    @property
    def config(self) -> ModelConfig:
        return self.tokenizer.config

    @property
    def geometry(self) -> Geometry:
        return self.tokenizer.geometry

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.quantizer.vocabulary

    @property
    def digits(self) -> tuple[int, ...]:
        return self.tokenizer.quantizer.digits

    @property
    def qualities(self) -> int:
        """Rates that the model has; 1 is the lowest."""
        return self.config.qualities

    @property
    def default_quality(self) -> int:
        return self.config.default_quality

    @property
    def look_back(self) -> int:
        return self.tokenizer.look_back

    def encoder(
        self, height: int, width: int, schedule: Schedule | None = None, quality: int | None = None, refine: int = 0
    ) -> EncodeStream:
        """A stream that turns frames of this size into ids; `refine`: steps of search for better ones, of each."""
        return EncodeStream(
            self.tokenizer, height, width, dtype=self.dtype, schedule=schedule, quality=quality, refine=refine
        )

    def decoder(self, height: int, width: int, schedule: Schedule | None = None) -> DecodeStream:
        """A stream that turns ids into frames of this size."""
        return DecodeStream(self.tokenizer, height, width, dtype=self.dtype, schedule=schedule)

    def encode(self, frames: np.ndarray | Tensor, quality: int | None = None, *, refine: int = 0) -> Tokens:
        """uint8 (T, H, W, 3) or (B, T, H, W, 3) -> Tokens with ids (t, h, w) or (B, t, h, w), of the same kind.

        At qualities above 1 ids have one axis more, the last: (t, h, w, quality). Batches of a model with several
        qualities have it always: (B, t, h, w, 1).
        """
        if frames.ndim not in (4, 5) or frames.shape[-1] != 3 or 0 in frames.shape:
            raise UsageError(f"frames are uint8 (T, H, W, 3) or (B, T, H, W, 3), none empty; got {tuple(frames.shape)}")
        clips = frames if frames.ndim == 5 else frames[None]
        count, height, width = clips.shape[1:4]
        stream = self.encoder(height, width, quality=quality, refine=refine)
        ids = np.stack([np.concatenate([stream.push(clip), stream.flush()]) for clip in clips])
        if frames.ndim == 5 and self.qualities > 1 and ids.ndim == 4:
            ids = ids[..., None]
        result = _like(ids if frames.ndim == 5 else ids[0], frames)
        return Tokens(ids=result, frames=count, height=height, width=width, vocabulary=self.vocabulary)

    def decode(self, tokens: Tokens) -> Any:
        """The inverse of `encode`: uint8 frames of the same shape, kind and device as went in."""
        return self.decode_ids(tokens.ids, frames=tokens.frames, height=tokens.height, width=tokens.width)

    def decode_ids(
        self,
        ids: np.ndarray | Tensor,
        *,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Any:
        """Ids as `encode` gives them -> uint8 frames; all that the grid holds where no size is given."""
        shapes = {3: "(t, h, w)", 4: "(B, t, h, w)"}
        if self.qualities > 1:
            shapes = {3: "(t, h, w)", 4: "(t, h, w, quality)", 5: "(B, t, h, w, quality)"}
        if ids.ndim not in shapes:
            raise UsageError(f"ids of {self.name} are {' or '.join(shapes.values())}; got {tuple(ids.shape)}")
        batched = shapes[ids.ndim].startswith("(B")
        clips = ids if batched else ids[None]
        t, h, w = clips.shape[1:4]
        space = self.geometry.space
        stream = self.decoder(height or h * space, width or w * space)
        decoded = []
        for clip in clips:
            stream.restart()
            decoded.append(stream.push(self._check(clip))[: frames or self.geometry.frames(t)])
        return _like(np.stack(decoded) if batched else decoded[0], ids)

    def codes(self, ids: np.ndarray | Tensor) -> Tensor:
        """Ids (...) -> the quantizer's code vectors (..., D), float32 in [-1, 1]: embeddings for other networks."""
        return self.tokenizer.quantizer.ids_to_codes(torch.from_numpy(self._check(ids)).to(self.device))

    def stream(self, quality: int | None = None) -> TokenStream:
        """Live coding: push frames and get ids as they come, and the reverse."""
        return TokenStream(self, quality)

    def _check(self, ids: np.ndarray | Tensor) -> np.ndarray:
        array = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
        if array.dtype.kind not in "ui":
            raise UsageError(f"ids are integers, got {array.dtype}")
        if array.size and not (int(array.min()) >= 0 and int(array.max()) < self.vocabulary):
            raise UsageError(f"ids of {self.name} are 0 to {self.vocabulary - 1}, got {array.min()} to {array.max()}")
        return array.astype(np.int64)


class TokenStream:
    """One video at a time, in both directions; the first push fixes the size.

    stream.encode(frames) -> ids of the latent frames now complete;   stream.flush() -> the rest, at the end
    stream.decode(ids)    -> the frames those ids hold
    """

    def __init__(self, model: Model, quality: int | None = None) -> None:
        self.model, self.quality = model, quality
        self._encoder: EncodeStream | None = None
        self._decoder: DecodeStream | None = None

    def encode(self, frames: np.ndarray | Tensor) -> np.ndarray:
        """uint8 (T, H, W, 3), any T >= 0 -> ids (n, h, w)."""
        if self._encoder is None:
            self._encoder = self.model.encoder(int(frames.shape[1]), int(frames.shape[2]), quality=self.quality)
        return self._encoder.push(frames)

    def flush(self) -> np.ndarray:
        """The ids of what was pushed and not yet returned; the next push starts a new video."""
        if self._encoder is None:
            raise UsageError("nothing was pushed: encode frames first")
        return self._encoder.flush()

    def decode(self, ids: np.ndarray, *, height: int | None = None, width: int | None = None) -> np.ndarray:
        """Ids (n, h, w) or (n, h, w, quality), one latent frame after the other -> uint8 (T, H, W, 3)."""
        space = self.model.geometry.space
        if self._decoder is None:
            self._decoder = self.model.decoder(height or ids.shape[1] * space, width or ids.shape[2] * space)
        return self._decoder.push(self.model._check(ids))


def _like(array: np.ndarray, other: np.ndarray | Tensor) -> np.ndarray | Tensor:
    return torch.from_numpy(array).to(other.device) if isinstance(other, Tensor) else array
