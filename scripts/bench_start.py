"""What `vidtok --help` and `vidtok info` take, against bare python, all in one run: best of nine starts each.

    python scripts/bench_start.py FILE.vtok
"""

from __future__ import annotations

import subprocess
import sys
import time


def seconds(*arguments: str) -> float:
    """The best of nine starts of a process."""
    taken = []
    for _ in range(9):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    bare = seconds("-c", "pass")
    print(f"{'bare python':>14} {1000 * bare:6.0f} ms")
    for name, arguments in (("vidtok --help", ["--help"]), ("vidtok info", ["info", sys.argv[1]])):
        taken = seconds("-m", "vidtok", *arguments)
        print(f"{name:>14} {1000 * taken:6.0f} ms  {taken / bare:4.1f}x")


if __name__ == "__main__":
    main()
