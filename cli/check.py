"""`attribkit check`: is this very model handled rightly?"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from attribkit.cli import options

if TYPE_CHECKING:
    from attribkit import Site
    from attribkit.verify.checking import Checked


@click.command("check")
@options.model_argument
@options.weights
@click.option("--image", help="The image to check on.  [default: noise]")
@click.option("--activations", type=click.Choice(["rectifiers", "all"]), default="rectifiers", show_default=True)
@options.device
@options.as_json
@options.debug
def command(model: str, weights: str, image: str | None, activations: str, device: str | None, as_json: bool) -> None:
    """Check how MODEL is handled: what follows the rules, what does not, and whether every promise holds on it.

    Exit code 0: it is handled rightly. 1: it is not, or it cannot be rewritten; the output says why.
    """
    import torch

    from attribkit.verify.checking import check

    loaded = options.loaded(model, options.without_download(model, weights), device)
    like = loaded.preprocess.example() if image is None else loaded.preprocess(image)
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
    x = options.batch(loaded, noise if image is None else like)
    checked = check(loaded.model, x, output=loaded.output, activations=activations)  # type: ignore[arg-type]
    click.echo(_as_json(loaded.name, checked) if as_json else _in_words(loaded.name, checked))
    if checked.outcome == "wrong":
        raise click.ClickException(f"{loaded.name} is not handled rightly: please report it")
    if checked.outcome == "cannot be judged":
        raise click.ClickException(f"a part of {loaded.name} hides what it does, so do not rely on its maps")


def _as_json(name: str, checked: Checked) -> str:
    document = {
        "model": name,
        "right": checked.right,
        "outcome": checked.outcome,
        "findings": [asdict(finding) for finding in checked.findings],
        "sites": [asdict(site) for site in checked.sites],
    }
    return json.dumps(document, indent=2)


def _in_words(name: str, checked: Checked) -> str:
    met = [site for site in checked.sites if site.calls]
    lines = [name, _counted("follow the rules", [site for site in met if site.swapped])]
    lines += [_counted("left alone", [site for site in met if not site.swapped])]
    if len(met) < len(checked.sites):
        lines.append(f"  never called: {', '.join(site.name for site in checked.sites if not site.calls)}")
    mark = {True: "ok ", False: "NO ", None: " - "}
    lines += [f"  {mark[each.holds]} {each.promise} ({each.seen})" for each in checked.findings]
    return "\n".join([*lines, checked.outcome])


def _counted(what: str, sites: list[Site]) -> str:
    kinds = Counter(f"{site.op} ({site.how})" for site in sites)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"  {what}: {counts or 'none'}"
