"""`python -m vidtok` is the `vidtok` command."""

from __future__ import annotations

from vidtok.cli import main

if __name__ == "__main__":
    main()
