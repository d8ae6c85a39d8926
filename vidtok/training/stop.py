"""SIGTERM and SIGINT end a run after the step at hand."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """Notes SIGTERM and SIGINT, so that the loop ends after the step at hand with everything saved."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not in the main thread: whoever called decides
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> bool:
        return self.asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
