"""Options that several commands share, declared once."""

from __future__ import annotations

import click

device = click.option(
    "--device",
    envvar="ATTRIBKIT_DEVICE",
    default=None,
    metavar="DEVICE",
    help="cpu, cuda, cuda:1, ...  [default: a GPU if there is one]",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on standard output, and nothing else there."
)
quiet = click.option("--quiet", "-q", is_flag=True, help="No progress.")
debug = click.option("--debug", is_flag=True, help="Show where an error comes from.", expose_value=False)
