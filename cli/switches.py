"""`attribkit switches`: record which pixel won in each window of a model's max-pools."""

from __future__ import annotations

import json
from pathlib import Path

import click

from attribkit.cli import options


@click.command("switches")
@click.argument("image")
@options.model
@options.weights
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write.")
@options.size
@options.device
@options.as_json
@options.debug
def command(
    image: str, model: str, weights: str, out: Path, size: int | None, device: str | None, as_json: bool
) -> None:
    """Record the switches of IMAGE, for attribkit explain OTHER --switches FILE.

    \b
    attribkit switches cat.jpg --model torchvision:vgg16 -o cat.safetensors
    attribkit explain dog.jpg --model torchvision:vgg16 --switches cat.safetensors
    """
    from attribkit import record_switches
    from attribkit.cli.pictures import given_images

    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out {out}: switches are saved as .safetensors")
    (source, *others) = given_images([image])
    if others:
        raise click.UsageError(f"{image} names several images, but switches are recorded from one")
    loaded = options.loaded(model, weights, device)
    recorded = record_switches(loaded.model, options.batch(loaded, loaded.preprocess(source.read(), size)))
    recorded.save(out)
    sites = {name: list(indices.shape[1:]) for name, indices in recorded.indices.items()}
    if as_json:
        click.echo(json.dumps({"file": str(out), "sites": sites}, indent=2))
    else:
        for name, shape in sites.items():
            click.echo(f"{name}: {'x'.join(map(str, shape))}")
        click.echo(out)
