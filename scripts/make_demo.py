"""make_demo.py OUT.mp4: four seconds worth looking at, made of nothing but numpy.

A camera pans over hills in layers while clouds drift, the sun is reflected in a lake, birds cross and a
striped ball bounces: soft gradients, fine texture, slow and fast motion, hard edges.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from vidtok.video import VideoWriter

WIDTH, HEIGHT, RATE, SECONDS = 640, 360, 24, 4
SHORE = 250  # row where the lake begins
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)


def noise(rng: np.random.Generator, height: int, width: int, finest: int = 4) -> np.ndarray:
    """Fractal noise in [0, 1] that tiles in x: (height, width) float32."""
    total = np.zeros((height, width), np.float32)
    cell, weight, sum_of_weights = 128, 1.0, 0.0
    while cell >= finest:
        grid = rng.random((height // cell + 2, width // cell), dtype=np.float32)
        total += weight * enlarge(grid, cell, height, width)
        sum_of_weights += weight
        cell, weight = cell // 2, weight * 0.55
    return total / sum_of_weights


def enlarge(grid: np.ndarray, cell: int, height: int, width: int) -> np.ndarray:
    """Smooth interpolation of a coarse grid, cyclic in x."""
    y, x = np.arange(height) / cell, np.arange(width) / cell
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (3 * f**2 - 2 * f**3 for f in ((y - y0)[:, None], (x - x0)[None, :]))
    x1 = (x0 + 1) % grid.shape[1]
    x0 = x0 % grid.shape[1]
    top = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x1] * fx
    bottom = grid[y0 + 1][:, x0] * (1 - fx) + grid[y0 + 1][:, x1] * fx
    return (top * (1 - fy) + bottom * fy).astype(np.float32)


class Scene:
    """What stays the same: textures and outlines, wider than the picture so that a camera can pan."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.clouds = noise(rng, HEIGHT, 1280)
        self.texture = noise(rng, HEIGHT, 1280, finest=2)
        ridges = [noise(rng, 128, 1280, finest=8)[40] for _ in range(3)]
        self.ridges = [140 + 30 * i + (70 - 14 * i) * (0.5 - ridge) for i, ridge in enumerate(ridges)]

    def frame(self, t: float) -> np.ndarray:
        """The picture at t seconds: (HEIGHT, WIDTH, 3) uint8."""
        picture = self.sky(t)
        tints = np.array([[0.46, 0.50, 0.62], [0.30, 0.42, 0.40], [0.16, 0.30, 0.16]], np.float32)
        for i, (ridge, tint) in enumerate(zip(self.ridges, tints, strict=True)):
            pan = int(t * (10 + 22 * i))
            outline = np.roll(ridge, -pan)[:WIDTH]
            grain = np.roll(self.texture, -pan, axis=1)[:, :WIDTH, None]
            cover = np.clip(Y - outline, 0, 1)[..., None]
            picture = picture * (1 - cover) + tint * (0.55 + 0.9 * grain) * cover
        picture = self.lake(picture, t)
        picture = self.birds(picture, t)
        picture = self.ball(picture, t)
        return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)

    def sky(self, t: float) -> np.ndarray:
        height = np.clip(Y / SHORE, 0, 1)[..., None]
        sky = (1 - height) * np.array([0.25, 0.45, 0.80], np.float32) + height * np.array(
            [0.98, 0.80, 0.60], np.float32
        )
        shift = 18 * t
        whole = int(shift)
        near, far = (np.roll(self.clouds, -whole - i, axis=1)[:, :WIDTH] for i in (0, 1))
        cloud = np.clip((near * (1 - shift + whole) + far * (shift - whole) - 0.5) * 5, 0, 0.9)[..., None]
        sky = sky * (1 - cloud) + np.array([1.0, 0.97, 0.94], np.float32) * cloud
        away = np.hypot(X - 470 + 6 * t, Y - 95)[..., None]
        sun = np.clip(27 - away, 0, 1) + 0.5 * np.exp(-away / 45)
        return sky + sun * np.array([1.0, 0.86, 0.55], np.float32) * 0.8

    def lake(self, picture: np.ndarray, t: float) -> np.ndarray:
        """Everything above the shore mirrored, broken by waves that grow towards the viewer."""
        depth = np.arange(HEIGHT - SHORE, dtype=np.float32)[:, None]
        wave = np.sin(depth * 90 / (depth + 12) + 5 * t + 0.015 * X[:1]) + 0.5 * np.sin(
            0.05 * X[:1] + 3 * t + depth
        )
        rows = np.clip(SHORE - 1 - depth * 1.6 + wave * (1 + depth * 0.05), 0, SHORE - 1).astype(int)
        columns = np.clip(X[:1] + wave * (0.5 + depth * 0.06), 0, WIDTH - 1).astype(int)
        glitter = np.clip(wave - 1.1, 0, 1)[..., None] * 0.5
        water = picture[rows, columns] * np.array([0.62, 0.74, 0.82], np.float32) + glitter
        return np.concatenate([picture[:SHORE], water])

    def birds(self, picture: np.ndarray, t: float) -> np.ndarray:
        for i in range(5):
            x, y = -40 + 150 * t + 37 * i * (1 - 2 * (i % 2)) + 60 * i, 60 + 13 * i + 6 * np.sin(3 * t + i)
            beat = np.sin(14 * t + 1.7 * i)
            away = np.abs(X - x)
            wing = np.clip(2.2 - np.abs(Y - y + away * beat * 0.55), 0, 1) * np.clip(13 - away, 0, 1)
            picture = picture * (1 - 0.85 * wing[..., None])
        return picture

    def ball(self, picture: np.ndarray, t: float) -> np.ndarray:
        """A striped ball with light from the upper right, rolling as it bounces across the water."""
        radius, x = 34.0, 60 + 150 * t
        y = 300 - 150 * abs(np.sin(2.4 * t + 0.4))
        u, v = (X - x) / radius, (Y - y) / radius
        z = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
        turn = 4 * t
        across, along = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
        stripe = (np.sin(7 * np.arctan2(across, z)) * np.sign(along) > 0)[..., None]
        colour = np.where(
            stripe, np.array([0.90, 0.16, 0.12], np.float32), np.array([0.97, 0.95, 0.90], np.float32)
        )
        light = np.clip(0.45 * u - 0.6 * v + 0.66 * z, 0.12, 1)[..., None]
        shine = np.clip(0.35 * u - 0.5 * v + 0.79 * z, 0, 1)[..., None] ** 40
        inside = np.clip((1 - np.hypot(u, v)) * radius, 0, 1)[..., None]
        return picture * (1 - inside) + (colour * light + 0.7 * shine) * inside


def make_demo(path: Path) -> None:
    """Write the clip."""
    scene = Scene()
    with VideoWriter(
        path, width=WIDTH, height=HEIGHT, time_base=Fraction(1, RATE), rate=Fraction(RATE), crf=14, force=True
    ) as video:
        for i in range(RATE * SECONDS + 1):
            video.write(scene.frame(i / RATE)[None], [i])
        video.close(1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_demo.py OUT.mp4")
    make_demo(Path(sys.argv[1]))
