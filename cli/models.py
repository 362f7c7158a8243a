"""`attribkit models`: the names that --model takes."""

from __future__ import annotations

import json

import click

from attribkit.cli import options
from attribkit.errors import BadValue


@click.command("models")
@click.argument("pattern", default="*")
@click.option("--here", is_flag=True, help="Only those whose own weights are on this machine.")
@options.as_json
@options.debug
def command(pattern: str, here: bool, as_json: bool) -> None:
    """List the models, or those that match PATTERN.

    A word matches every name that contains it; * and ? are wildcards.

    \b
    attribkit models 'resnet*'
    attribkit models timm:efficientnet
    attribkit models --here
    """
    from attribkit import list_models

    wanted = pattern if any(letter in pattern for letter in "*?[") else _part(pattern)
    names = list_models(wanted, here=here)
    if not names and here:
        raise BadValue(f"no weights of a model that matches {pattern!r} are on this machine")
    if not names:
        raise BadValue(f"no model matches {pattern!r}; attribkit models lists them all")
    click.echo(json.dumps(names, indent=2) if as_json else "\n".join(names))


def _part(word: str) -> str:
    source, colon, name = word.rpartition(":")
    return f"{source}{colon}*{name}*"
