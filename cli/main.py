"""`attribkit`: the commands, each a file of its own, found when it is called for."""

from __future__ import annotations

import importlib
import sys
import warnings

import click

COMMANDS = (
    "explain",
    "gallery",
    "occlude",
    "evolve",
    "filters",
    "invariance",
    "probe",
    "models",
    "layers",
    "switches",
    "check",
    "train",
    "validate",
    "bench",
)


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"attribkit.cli.{name}").command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="attribkit")
def attribkit() -> None:
    """Which pixels made this unit fire? Convolutional networks, run backwards by another rule."""


def main() -> None:
    """Exit code 0, 1 when a command failed, 2 when it was called wrongly; errors are one line without `--debug`."""
    debug = "--debug" in sys.argv[1:]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            attribkit.main(prog_name="attribkit", standalone_mode=False)
    except click.exceptions.Exit as stopped:
        sys.exit(stopped.exit_code)
    except click.UsageError as wrong:
        wrong.show()
        sys.exit(wrong.exit_code)
    except click.ClickException as failed:
        _fail(failed.format_message(), failed.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("stopped", 130)
    except Exception as error:  # the last stop of a command: ours in one line, any other as the bug that it is
        if debug:
            raise
        _fail(_in_one_line(error))


def _in_one_line(error: Exception) -> str:
    """What the library raises on purpose says what to do; anything else is a bug, of ours or of the user's model."""
    from attribkit.errors import AttribkitError, Unclear

    if isinstance(error, Unclear):
        return str(error)
    message = " ".join(str(error).split())
    if isinstance(error, AttribkitError):
        return message
    return f"{type(error).__name__}: {message} (probably a bug of ours: run it with --debug and report what it says)"


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A warning in one line; those for programmers are not for whoever runs a command."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
        click.echo(f"attribkit: {' '.join(str(message).split())}", err=True)


def _fail(message: str, code: int = 1) -> None:
    click.echo(f"attribkit: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
