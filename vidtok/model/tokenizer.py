"""A tokenizer: encoder, quantizer, decoder and the config that built them.

    uint8 frames -> pad in time -> patches in [-1, 1] -> encoder -> latent -> quantizer -> ids
    ids -> codes -> decoder -> patches -> uint8 frames

The first frame of a segment is repeated in front so that it fills a latent frame of its own; see `geometry`.
Two kinds: `conv` codes each latent frame by itself, `recurrent` only what is new, in one or more qualities.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vidtok.config import from_dict
from vidtok.errors import ConfigError, UnknownNameError, UsageError
from vidtok.geometry import Geometry
from vidtok.model.conv import ConvConfig, ConvDecoder, ConvEncoder
from vidtok.model.layers import State
from vidtok.model.motion import Motion, luma
from vidtok.model.patches import from_patches, patch_values, to_patches
from vidtok.model.quantizer import FSQ, Quantized, QuantizerConfig, build_quantizer
from vidtok.model.recurrent import (
    Expectation,
    Memory,
    Recurrence,
    RecurrentConfig,
    RecurrentDecoder,
    RecurrentEncoder,
    misfit,
)
from vidtok.model.refine import refine as refine_ids


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    kind: str = "conv"  # which backbone; `backbone` is its own config
    time_stride: int = 4  # frames per latent frame, after the first
    space_stride: int = 8  # pixels per grid cell, each way
    qualities: int = 1  # rates, that is ids per cell at most; recurrent models only
    default_quality: int = 1
    backbone: dict[str, Any] = field(default_factory=dict)
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(levels=(4,) * 8))

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("backbone", self.kind, KINDS)
        if not 1 <= self.time_stride <= 64 or not 1 <= self.space_stride <= 64:
            raise ConfigError(f"strides are 1 to 64, got {self.time_stride} and {self.space_stride}")
        if not 1 <= self.qualities <= (64 if self.kind == "recurrent" else 1):
            raise ConfigError(f"qualities {self.qualities}: a {self.kind} model has one; recurrent models have 1 to 64")
        if self.kind == "recurrent" and self.quantizer.kind != "fsq":
            raise ConfigError(f"recurrent models quantize with fsq, got {self.quantizer.kind}")
        if not 1 <= self.default_quality <= self.qualities:
            raise ConfigError(f"default_quality is 1 to {self.qualities}, got {self.default_quality}")
        self.backbone_config()

    def backbone_config(self) -> Any:
        """The backbone's own config object, checked."""
        return from_dict(KINDS[self.kind], self.backbone, "backbone")

    @property
    def vocabulary(self) -> int:
        return build_quantizer(self.quantizer).vocabulary

    @property
    def geometry(self) -> Geometry:
        return Geometry(time=self.time_stride, space=self.space_stride)

    @property
    def period(self) -> int:
        """Latent frames after which a recurrent model starts anew by itself; 0: others, which never do."""
        return int(getattr(self.backbone_config(), "period", 0))

    def check_quality(self, quality: int | None) -> int:
        """`quality`, the default where None; UsageError where the model has no such rate."""
        if quality is None:
            return self.default_quality
        if not 1 <= quality <= self.qualities:
            has = "has one rate, quality 1" if self.qualities == 1 else f"has qualities 1 to {self.qualities}"
            raise UsageError(f"--quality {quality}: this model {has}")
        return quality

    def check_refine(self, steps: int) -> None:
        """UsageError where ids of this model cannot be refined in so many steps; 0 always can."""
        if steps < 0:
            raise UsageError(f"--refine {steps}: 0 or more steps")
        if steps and self.kind != "recurrent":
            raise UsageError(f"--refine {steps}: only recurrent models such as vidtok-2 can; this one is {self.kind}")


KINDS: dict[str, type[Any]] = {"conv": ConvConfig, "recurrent": RecurrentConfig}


class Reconstruction(NamedTuple):
    frames: Tensor  # (B, T, H, W, 3) about [-1, 1]
    quantized: Quantized
    extra: dict[str, Tensor] = {}  # noqa: RUF012  # other reconstructions of the same shape, to be trained as well


class Tokenizer(nn.Module):
    """The network of a `ModelConfig`. Knows patches, latents and ids; videos of any size are `stream`'s job.

    Ids are (B, t, h, w) at quality 1, (B, t, h, w, quality) above, the first stage first.
    """

    encoder_halo: int | None  # cells a side that a cell's ids depend on; None: on the whole picture
    decoder_halo: int | None  # the same for its pixels
    look_back: int  # latent frames before the first wanted one that a decoder needs for exact frames

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.geometry = config.geometry
        self.quantizer = build_quantizer(config.quantizer)

    @property
    def qualities(self) -> int:
        return self.config.qualities

    def forward(self, frames: Tensor, quality: int | None = None) -> Reconstruction:
        """Training path. Frames (B, T, H, W, 3) in [-1, 1], H and W multiples of space.

        T is 1 + k * time for the start of a segment, k * time for the start of a period inside one.
        """
        starts = frames.shape[1] % self.geometry.time == 1 or self.geometry.time == 1
        front = self.geometry.time - 1 if starts else 0
        patches = to_patches(torch.cat([frames[:, :1].expand(-1, front, -1, -1, -1), frames], dim=1), self.geometry)
        decoded, quantized, extra = self.reconstruct(patches, self.config.check_quality(quality), starts)

        def back(patches: Tensor) -> Tensor:
            return from_patches(patches, self.geometry)[:, front:]

        return Reconstruction(back(decoded), quantized, {name: back(p) for name, p in extra.items()})

    @torch.no_grad()
    def encode_pixels(
        self, pixels: Tensor, state: State | None, dtype: torch.dtype = torch.float32, quality: int = 1, refine: int = 0
    ) -> tuple[Tensor, State]:
        """uint8 (B, t * time, H, W, 3) -> ids int64, and the state for what follows. `refine`: steps of search."""
        patches = to_patches(pixels, self.geometry).float().div_(127.5).sub_(1)
        return self.encode_patches(patches, state or State(), dtype, quality, refine)

    @torch.no_grad()
    def decode_ids(self, ids: Tensor, state: State | None, dtype: torch.dtype = torch.float32) -> tuple[Tensor, State]:
        """Ids of any quality -> uint8 patches (B, t, h, w, P), and the state for what follows."""
        decoded, state = self.decode_patches(ids, state or State(), dtype)
        return decoded.float().mul_(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8), state

    def first_needed(self, latent: int) -> int:
        """Where in its segment decoding has to start for the exact frames of latent frame `latent` of it."""
        return max(0, latent - self.look_back)

    def reconstruct(self, patches: Tensor, quality: int, starts: bool) -> tuple[Tensor, Quantized, dict[str, Tensor]]:
        """Patches (B, t, h, w, P) there and back, with gradients."""
        raise NotImplementedError

    def encode_patches(
        self, patches: Tensor, state: State, dtype: torch.dtype, quality: int, refine: int = 0
    ) -> tuple[Tensor, State]:
        raise NotImplementedError

    def decode_patches(self, ids: Tensor, state: State, dtype: torch.dtype) -> tuple[Tensor, State]:
        raise NotImplementedError


class ConvTokenizer(Tokenizer):
    """Encoder and decoder meet in the ids alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes, patch = config.backbone_config(), patch_values(self.geometry)
        self.encoder = ConvEncoder(sizes, patch, self.quantizer.dim)
        self.decoder = ConvDecoder(sizes, patch, self.quantizer.dim)
        self.encoder_halo, self.decoder_halo = self.encoder.halo, self.decoder.halo
        self.look_back = self.decoder.look_back

    def reconstruct(self, patches: Tensor, quality: int, starts: bool) -> tuple[Tensor, Quantized, dict[str, Tensor]]:
        latent, _ = self.encoder(patches, None if starts else State(1))
        quantized = self.quantizer.quantize(latent)
        return self.decoder(quantized.codes, None if starts else State(1))[0], quantized, {}

    def encode_patches(
        self, patches: Tensor, state: State, dtype: torch.dtype, quality: int, refine: int = 0
    ) -> tuple[Tensor, State]:
        assert not refine
        latent, state = self.encoder(patches.to(dtype), state)
        return self.quantizer.quantize(latent).ids, state

    def decode_patches(self, ids: Tensor, state: State, dtype: torch.dtype) -> tuple[Tensor, State]:
        return self.decoder(self.quantizer.ids_to_codes(ids).to(dtype), state)  # type: ignore[no-any-return]


class RecurrentTokenizer(Tokenizer):
    """Encoder and decoder share a recurrence; each stage of each latent frame says what the others left out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes, patch, digits = config.backbone_config(), patch_values(self.geometry), self.quantizer.digits
        self.motion = Motion(sizes.motion, digits[-2:], self.geometry) if sizes.motion else None
        if self.motion:
            digits = digits[:-2]
        self.content = len(digits)  # digits of an id that are not about motion
        self.recurrence = Recurrence(sizes, patch, digits, config.qualities)
        self.encoder = RecurrentEncoder(sizes, patch, digits)
        self.decoder = RecurrentDecoder(sizes, patch)
        self.encoder_halo = self.decoder_halo = None
        self.period: int = sizes.period
        self.uncertainty: float = sizes.uncertainty
        self.thrift: float = sizes.thrift
        self.look_back = self.period - 1

    def first_needed(self, latent: int) -> int:
        return latent - latent % self.period

    def reconstruct(self, patches: Tensor, quality: int, starts: bool) -> tuple[Tensor, Quantized, dict[str, Tensor]]:
        b, t, h, w, _ = patches.shape
        kind, coefficients = patches.dtype, self.encoder.analysis(patches)
        memories = [self.recurrence.start(b, h, w, patches)] * quality
        last: list[Memory] = []
        ids: list[Tensor] = []
        codes: list[Tensor] = []  # of the last stage
        terms: dict[str, Tensor] = defaultdict(lambda: patches.new_zeros(()))
        moves, _ = self._search(patches, None)
        for i in range(t):
            found = []
            digits = moves[i] if i else None
            place, vectors = i if starts else i + self.period, self._vectors(digits)
            for stage, expected in self._stages(memories, place, kind, vectors):
                latent = self.encoder(coefficients[:, i : i + 1], expected, self.recurrence.modes)
                quantized = self.quantizer.quantize(self._with_motion(latent, None if stage else digits))
                memories[stage] = self.recurrence.update(expected, quantized.codes[..., : self.content])
                for name, term in quantized.terms.items():
                    terms[name] = terms[name] + term / (t * quality)
                misfits = misfit(coefficients[:, i : i + 1], expected) * (self.uncertainty / (t * quality))
                terms["uncertainty"] = terms["uncertainty"] + misfits
                if self.thrift:
                    size = self.recurrence.modes.size(quantized.codes[..., : self.content])
                    terms["thrift"] = terms["thrift"] + size * (self.thrift / (t * quality))
                found.append(quantized.ids)
            last.append(memories[-1])
            ids.append(_stack(found))
            codes.append(quantized.codes)
        estimates, notes = (
            torch.cat(parts, dim=1) for parts in zip(*((m.estimate, m.notes) for m in last), strict=True)
        )
        decoded, _ = self.decoder(estimates, notes, self.decoder.initial_taps(b, h, w, estimates.to(kind)), kind)
        return (
            decoded,
            Quantized(
                torch.cat(codes, dim=1), torch.cat(ids, dim=1), sum(terms.values(), patches.new_zeros(())), dict(terms)
            ),
            {"estimate": self.decoder.synthesis(estimates)},
        )

    def encode_patches(
        self, patches: Tensor, state: State, dtype: torch.dtype, quality: int, refine: int = 0
    ) -> tuple[Tensor, State]:
        b, t, h, w, _ = patches.shape
        memories = self._recall(state, quality, patches)
        kept, seen = list(state.taps[3 * quality :]), None
        if self.motion and kept:
            seen = kept.pop()  # luma of the last frame
        taps = _split(tuple(kept), quality)  # of the decoder of each stage, where it is needed
        moves, seen = self._search(patches, seen)
        ids = []
        for i in range(t):
            now = patches[:, i : i + 1]
            coefficients = self.encoder.analysis(now)
            digits = moves[i]
            if (state.latent + i) % self.period == 0:
                digits = None
                memories = [self.recurrence.start(b, h, w, patches)] * quality
                taps = [self.decoder.initial_taps(b, h, w, patches.to(dtype))] * quality
            found = []
            for stage, expected in self._stages(memories, state.latent + i, dtype, self._vectors(digits)):
                latent = self.encoder(coefficients, expected, self.recurrence.modes)
                latent = self._with_motion(latent, None if stage else digits)
                if refine:
                    found.append(self._refined(latent, expected, now, taps[stage], refine))
                else:
                    found.append(self.quantizer.quantize(latent).ids)
                codes = self.quantizer.ids_to_codes(found[-1])[..., : self.content]
                memory = self.recurrence.update(expected, codes)
                memories[stage] = memory
                if refine:
                    taps[stage] = self.decoder(memory.estimate, memory.notes, taps[stage], dtype)[1]
            ids.append(_stack(found))
        kept = [tap for stage in taps for tap in stage] if refine else []
        if seen is not None:
            kept.append(seen)
        return torch.cat(ids, dim=1), State(state.latent + t, (*_flat(memories), *kept))

    def _refined(
        self, latent: Tensor, expected: Expectation, patches: Tensor, taps: tuple[Tensor, ...], steps: int
    ) -> Tensor:
        assert isinstance(self.quantizer, FSQ)
        return refine_ids(self.recurrence, self.decoder, self.quantizer, latent, expected, patches, taps, steps)

    def decode_patches(self, ids: Tensor, state: State, dtype: torch.dtype) -> tuple[Tensor, State]:
        stages = ids[..., None] if ids.ndim == 4 else ids
        b, t, h, w, quality = stages.shape
        codes = self.quantizer.ids_to_codes(stages)  # (B, t, h, w, q, D)
        memories = self._recall(state, quality, codes)
        taps = state.taps[3 * quality :] or self.decoder.initial_taps(b, h, w, codes.to(dtype))
        decoded: list[Tensor] = []
        for first, after in _periods(state.latent, t, self.period):
            if (state.latent + first) % self.period == 0:
                memories = [self.recurrence.start(b, h, w, codes)] * quality
                taps = self.decoder.initial_taps(b, h, w, codes.to(dtype))
            known = []
            for i in range(first, after):
                now = codes[:, i : i + 1]
                vectors = None
                if self.motion and (state.latent + i) % self.period:
                    vectors = self.motion.vectors(now[..., 0, self.content :])
                for stage, expected in self._stages(memories, state.latent + i, dtype, vectors):
                    said = now[..., stage, : self.content].contiguous()
                    memories[stage] = self.recurrence.update(expected, said)
                known.append(memories[-1])
            estimates = torch.cat([m.estimate for m in known], dim=1)
            patches, taps = self.decoder(estimates, torch.cat([m.notes for m in known], dim=1), taps, dtype)
            decoded.append(patches)
        return torch.cat(decoded, dim=1), State(state.latent + t, (*_flat(memories), *taps))

    def _stages(
        self, memories: list[Memory], latent: int, dtype: torch.dtype, vectors: Tensor | None
    ) -> Iterator[tuple[int, Expectation]]:
        """What each stage expects; between two of them the caller puts the new memory in its place."""
        phase = self.recurrence.phase_of(latent)
        moves = self.motion.features(vectors) if self.motion and vectors is not None else None
        for stage in range(len(memories)):
            memory, lower = memories[stage], memories[stage - 1].estimate if stage else None
            prediction, memory = self._moved(memory, vectors)
            yield stage, self.recurrence.expect(prediction, memory, lower, stage, phase, dtype, moves)

    def _moved(self, memory: Memory, vectors: Tensor | None) -> tuple[Tensor, Memory]:
        """What the last frame makes of this latent frame, and the rest of what is known where it now belongs."""
        if self.motion is None or vectors is None or not vectors.any():
            return self.recurrence.predict(memory.estimate), memory
        vectors = vectors[:, 0]
        frame = Geometry(time=1, space=self.geometry.space)
        last = from_patches(self.decoder.synthesis(memory.estimate, -patch_values(frame)), frame)[:, 0]
        prediction = self.encoder.analysis(to_patches(self.motion.frames(last, vectors), self.geometry))
        notes, said = (self.motion.cells(values, vectors) for values in (memory.notes, memory.said))
        return prediction, Memory(memory.estimate, notes, said)

    def _search(self, patches: Tensor, seen: Tensor | None) -> tuple[list[Tensor | None], Tensor | None]:
        """Digits (B, 1, h, w, 2) of the motion in each latent frame, and luma (B, H, W) of the last frame; `seen`: that
        of the frame before the first."""
        found: list[Tensor | None] = []
        for patch in patches.unbind(1):
            if self.motion is None:
                found.append(None)
                continue
            now = luma(from_patches(patch[:, None], self.geometry))
            found.append(None if seen is None else self.motion.search(seen, now)[:, None])
            seen = now[:, -1]
        return found, seen

    def _vectors(self, digits: Tensor | None) -> Tensor | None:
        return None if self.motion is None or digits is None else self.motion.table[digits]

    def _with_motion(self, latent: Tensor, digits: Tensor | None) -> Tensor:
        """A latent of what is coded, and these digits of motion after it; without any, those of no motion."""
        if self.motion is None:
            return latent
        moves = latent.new_zeros(*latent.shape[:-1], 2) if digits is None else self.motion.latent(digits)
        return torch.cat([latent, moves.to(latent.dtype)], dim=-1)

    def _recall(self, state: State, quality: int, like: Tensor) -> list[Memory]:
        b, _, h, w = like.shape[:4]
        if not state.taps:
            return [self.recurrence.start(b, h, w, like)] * quality
        return [Memory(*state.taps[3 * k : 3 * k + 3]) for k in range(quality)]


def _stack(stages: list[Tensor]) -> Tensor:
    """Ids (B, 1, h, w) of each stage -> (B, 1, h, w), or (B, 1, h, w, quality) where there are several."""
    return stages[0] if len(stages) == 1 else torch.stack(stages, dim=-1)


def _split(taps: tuple[Tensor, ...], stages: int) -> list[tuple[Tensor, ...]]:
    each = len(taps) // stages
    return [taps[each * k : each * (k + 1)] for k in range(stages)]


def _flat(memories: list[Memory]) -> tuple[Tensor, ...]:
    return tuple(tensor for memory in memories for tensor in memory)


def _periods(latent: int, count: int, period: int) -> Iterator[tuple[int, int]]:
    """Cut `count` latent frames, the first of them number `latent`, where periods begin: (first, after) from 0."""
    first = 0
    while first < count:
        after = min(count, first + period - (latent + first) % period)
        yield first, after
        first = after


def build_tokenizer(config: ModelConfig) -> Tokenizer:
    """The network that `config.kind` names, with random weights."""
    return {"conv": ConvTokenizer, "recurrent": RecurrentTokenizer}[config.kind](config)
