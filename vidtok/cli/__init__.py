"""The `vidtok` command: each subcommand parses, calls one library function, prints.

Only click is imported here. A command's module is imported when it is called for, and imports torch,
numpy or av only inside its body, so that `--help` and `info` start as fast as Python does.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import vidtok
from vidtok.cli.output import escape
from vidtok.errors import UsageError, VidtokError

# name: (module, one line of help); the command object in the module has the name of the command.
COMMANDS = {
    "encode": ("encode", "Videos and images to token files."),
    "decode": ("decode", "Token files to videos, pictures or arrays."),
    "eval": ("eval", "Encode, decode and measure, a row per clip."),
    "compare": ("compare", "Measure one video against another."),
    "info": ("info", "What a token file holds."),
    "verify": ("verify", "Check the checksums of token files."),
    "repack": ("repack", "Store the same tokens another way."),
    "export": ("exchange", "Tokens to .npy or flat .bin arrays."),
    "import": ("exchange", "Ids of any tokenizer to a token file."),
    "models": ("models", "The models that can be used."),
    "train": ("train", "Train a tokenizer from a config file."),
    "bench": ("bench", "How fast this machine encodes and decodes."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and first lines, and imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"vidtok.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  vidtok encode clip.mp4 -o clip.vtok",
)
@click.version_option(vidtok.__version__, "--version", prog_name="vidtok", message="%(prog)s %(version)s")
def group() -> None:
    """Turn any video into a small file of discrete tokens and back.

    `vidtok COMMAND --help` shows the options of a command and an example that runs.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 some input failed, 2 wrong usage, 130 interrupted."""
    settings: dict[str, Any] = {"debug": False}
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half written is removed
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        sys.exit(_run(list(sys.argv[1:] if args is None else args), settings))
    except BrokenPipeError:  # the reader of our output has left, as `head` does: nothing to say, nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(args: list[str], settings: dict[str, Any]) -> int:
    try:
        code = group.main(args, prog_name="vidtok", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.UsageError as exc:
        where = exc.ctx.command_path if exc.ctx is not None else "vidtok"
        return _complain(f"{exc.format_message().rstrip('.')} (see {where} --help)", 2)
    except click.ClickException as exc:
        return _complain(exc.format_message(), exc.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:
        raise
    except Exception as exc:
        if settings["debug"]:
            import traceback

            traceback.print_exc()
        return _complain(describe_exception(exc), 2 if isinstance(exc, UsageError) else 1)


def describe_exception(exc: Exception) -> str:
    """One line for what went wrong; what is not an error of ours is called internal."""
    from vidtok.batch import describe_failure

    return str(exc) if isinstance(exc, VidtokError) else describe_failure(exc)


def _complain(message: str, code: int) -> int:
    print(f"Error: {escape(message)}", file=sys.stderr)
    return code
