"""Everything that can go wrong because of a user, a file or a machine.

    VidtokError
    ├── UsageError        (ValueError)       an option or argument that makes no sense       exit 2
    │   └── UnknownNameError                 a name nobody knows, with the nearest that is known
    ├── ConfigError       (ValueError)       a TOML file or model config that is not valid
    ├── SourceError                          a video that cannot be read
    │   ├── NoVideoError                     it has no video stream
    │   └── TooLargeError                    its frames exceed --max-pixels or the format
    ├── OutputError       (OSError)          a file that cannot be written
    │   └── OutputExistsError (FileExistsError)
    ├── FormatError       (ValueError)       a token file that is not one, or breaks the format
    │   ├── TruncatedError (EOFError)        it ends too early
    │   ├── UnsupportedError                 a version, flag or mode this program does not know
    │   └── DamagedError                     checksums disagree; `.chunks` names which
    ├── ModelError                           weights that are missing or broken
    │   └── WrongModelError                  tokens of one model, weights of another
    └── MissingDependencyError (ImportError) an optional package, with the install line

`raise` these for what a user or a file can cause; `assert` for what would be a bug of ours.
Messages hold the value, the rule and the way out, on one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class VidtokError(Exception):
    """Base of all errors that are shown as one line."""


class UsageError(VidtokError, ValueError):
    """An option or argument that makes no sense."""


class UnknownNameError(UsageError):
    """A name nobody knows; says the nearest one that is known."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        choices = sorted(known)
        near = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(choices) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class ConfigError(VidtokError, ValueError):
    """A TOML file or model config that is not valid."""


class SourceError(VidtokError):
    """A video that cannot be read."""


class NoVideoError(SourceError):
    """The source has no video stream."""


class TooLargeError(SourceError):
    """Frames larger than allowed."""


class OutputError(VidtokError, OSError):
    """A file that cannot be written."""


class OutputExistsError(OutputError, FileExistsError):
    """The output is there already and --force was not given."""


class FormatError(VidtokError, ValueError):
    """Not a token file, or one that breaks the format."""


class TruncatedError(FormatError, EOFError):
    """A token file that ends too early."""


class UnsupportedError(FormatError):
    """A version, flag or mode this program does not know."""


class DamagedError(FormatError):
    """Checksums disagree; `chunks` holds the numbers of the damaged chunks."""

    def __init__(self, message: str, chunks: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.chunks = tuple(chunks)


class ModelError(VidtokError):
    """Weights that are missing or broken."""


class WrongModelError(ModelError):
    """Tokens were written by one model and another was given."""


class MissingDependencyError(VidtokError, ImportError):
    """An optional package is not installed."""
