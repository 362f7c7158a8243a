"""Models of timm, with their own metadata."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from timm.data.transforms_factory import create_transform
from timm.models import PretrainedCfg
from timm.models._hub import hf_split
from torch import Tensor, nn

from attribkit.adapters.preprocessing import Preprocess, Size, sides, unnormalised
from attribkit.adapters.source import LoadedModel
from attribkit.adapters.weights import Weights, WeightsError, is_file, load_weights, read_weights

if TYPE_CHECKING:
    from PIL.Image import Image


@cache
def names() -> tuple[str, ...]:
    """Every architecture, and every set of weights as architecture.tag."""
    return (*timm.list_models(), *timm.list_models(pretrained=True))


def build(name: str, weights: Weights, classes: int | None) -> LoadedModel:
    """The model with the weights that its tag names, without, or with those of a file."""
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if weights == "default":
        if classes is not None:
            raise WeightsError(
                f"the weights of timm:{name} come with their own classes: leave classes= out, or pass a file"
            )
        model = _pretrained(name)
    else:
        state = read_weights(weights) if is_file(weights) else None
        model = timm.create_model(name, pretrained=False, **options)
        if state is not None:
            load_weights(model, weights, state)
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return LoadedModel(f"timm:{name}", model, TimmPreprocess(config), _labels(model))


@dataclass(frozen=True, eq=False)
class TimmPreprocess(Preprocess):
    """What timm's data configuration of a model says."""

    config: dict[str, Any]

    def transform(self, size: Size | None) -> Callable[[Image], Tensor]:
        channels, *usual = self.config["input_size"]
        height, width = usual if size is None else sides(size)
        return create_transform(**self.config | {"input_size": (channels, height, width)}, is_training=False)

    def restore(self, x: Tensor) -> Tensor:
        return unnormalised(x, self.config["mean"], self.config["std"])


def _labels(model: nn.Module) -> tuple[str, ...]:
    subset = infer_imagenet_subset(model)
    if subset is None:
        return ()
    info = ImageNetInfo(subset)
    count = info.num_classes()  # type: ignore[no-untyped-call]
    return tuple(info.index_to_description(index) for index in range(count))


def _pretrained(name: str) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        tags = timm.list_models(f"{name}.*", pretrained=True)
        there = f"there are {', '.join(tags[:3])}" if tags else "pass weights=FILE or weights='none'"
        raise WeightsError(f"timm has no weights for {name}: {there}")
    cached = _cached(config)
    try:
        if not cached and config.hf_hub_id:
            _ask_for(urlsplit(ENDPOINT).hostname or ENDPOINT)
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=cached)
    except OSError as error:
        raise WeightsError(
            f"the weights of timm:{name} cannot be fetched (no network?): "
            f"pass weights=FILE, with a copy of {_origin(config)}, or weights='none'"
        ) from error


def is_here(name: str) -> bool:
    """Whether an earlier download has left the weights on this machine."""
    config = timm.get_pretrained_cfg(name)
    return config is not None and config.has_weights and _cached(config) is not None


def _cached(config: PretrainedCfg) -> dict[str, str] | None:
    """The file of an earlier download, which timm would ask the network about before it reads it."""
    if not config.hf_hub_id or config.custom_load:
        return None
    repository, revision = hf_split(config.hf_hub_id)
    file = try_to_load_from_cache(repository, config.hf_hub_filename or "model.safetensors", revision=revision)
    return {"file": file} if isinstance(file, str) else None


def _ask_for(host: str) -> None:
    """Raise OSError at once where the host has no address; the hub's client would try for most of a minute."""
    if not getproxies():
        socket.getaddrinfo(host, 443)


def _origin(config: PretrainedCfg) -> str:
    if not config.hf_hub_id:
        return str(config.url)
    return f"{ENDPOINT}/{config.hf_hub_id}/resolve/main/{config.hf_hub_filename or 'model.safetensors'}"
