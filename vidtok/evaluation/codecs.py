"""`x264:crf=18..40:preset=medium` -> an ordinary codec at several rates.

    NAME[:KEY=VALUE]...    NAME: x264 x265 svtav1 vp9
    crf=23                 one rate
    crf=18,24,30           several
    crf=18..40             at most six of them, evenly, both ends included
    crf=18..40..2          from 18 to 40 in steps of 2
    preset= tune= keyint= chroma=420|444
"""

from __future__ import annotations

import dataclasses
import math

from vidtok.errors import UnknownNameError, UsageError
from vidtok.video.ordinary import ENCODERS, OrdinaryOptions

KEYS = ("crf", "preset", "tune", "keyint", "chroma")
RATES = 6
OTHER_NAMES = {"h264": "x264", "libx264": "x264", "hevc": "x265", "h265": "x265", "libx265": "x265", "av1": "svtav1",
               "svt-av1": "svtav1", "libsvtav1": "svtav1", "libvpx-vp9": "vp9"}
USUAL_CRF = {"x264": "18..40", "x265": "18..40", "svtav1": "20..55", "vp9": "20..55"}


def parse_codec(text: str) -> list[OrdinaryOptions]:
    """The points of one --codec, best quality first. UsageError for what nobody can mean."""
    name, *words = text.strip().split(":")
    name = OTHER_NAMES.get(name.lower(), name.lower())
    if name not in ENCODERS:
        raise UnknownNameError("codec", name, ENCODERS)
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in KEYS:
            raise UnknownNameError(f"key of --codec {name}", key, KEYS)
        if not equals or not value or key in given:
            raise UsageError(f"--codec {text}: {key} wants one value, as in {name}:crf=18..40:preset=medium")
        given[key] = value
    keyint = given.get("keyint", "0")
    if not keyint.isdecimal():
        raise UsageError(f"--codec {text}: keyint={keyint} is not a number of frames")
    chroma = given.get("chroma", "420")
    if chroma not in ("420", "444") or (chroma == "444" and not ENCODERS[name].full_chroma):
        raise UsageError(f"--codec {text}: chroma={chroma}; {name} takes 420{'' if name == 'svtav1' else ' or 444'}")
    points = [
        OrdinaryOptions(
            codec=name,
            crf=crf,
            preset=given.get("preset", ENCODERS[name].preset),
            tune=given.get("tune", ""),
            keyint=int(keyint),
            chroma444=chroma == "444",
        )
        for crf in _rates(text, name, given.get("crf", USUAL_CRF[name]))
    ]
    if name in ("svtav1", "vp9") and not points[0].preset.lstrip("-").isdigit():
        raise UsageError(f"--codec {text}: presets of {name} are numbers, the default is {ENCODERS[name].preset}")
    return points


def label(options: OrdinaryOptions) -> str:
    """The codec with all that is the same at every rate: `x264:preset=medium`."""
    parts = [f"{options.codec}:preset={options.preset}"]
    parts += [f"tune={options.tune}"] if options.tune else []
    parts += [f"keyint={options.keyint}"] if options.keyint else []
    parts += ["chroma=444"] if options.chroma444 else []
    return ":".join(parts)


def at_rate(options: OrdinaryOptions, crf: float) -> OrdinaryOptions:
    """The same codec at another rate."""
    return dataclasses.replace(options, crf=crf)


def _rates(text: str, name: str, words: str) -> list[float]:
    highest = ENCODERS[name].highest_crf
    try:
        if ".." in words:
            low, high, *step = (float(part) for part in words.split(".."))
            rates = _stepped(low, high, *step) if step else _spread(low, high)
        else:
            rates = [float(part) for part in words.split(",")]
    except (TypeError, ValueError, OverflowError) as exc:
        raise UsageError(f"--codec {text}: crf={words}; give 23, 18,24,30, 18..40 or 18..40..2") from exc
    if not rates or not all(0 <= rate <= highest for rate in rates):
        raise UsageError(f"--codec {text}: crf={words}; {name} takes 0 to {highest}, the lower one first")
    return sorted(dict.fromkeys(rates))


def _spread(low: float, high: float) -> list[float]:
    count = min(RATES, math.floor(high - low) + 1)
    return [low] if count == 1 else [float(round(low + i * (high - low) / (count - 1))) for i in range(count)]


def _stepped(low: float, high: float, step: float) -> list[float]:
    if not step > 0:
        raise ValueError(step)
    return [low + i * step for i in range(min(1000, int((high - low) / step + 1e-9) + 1))]
