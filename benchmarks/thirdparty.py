"""Models of code that nobody here has written, under every rule beside the oracle, with random weights.

    python benchmarks/thirdparty.py              # all; stop it and start it again as you like
    python benchmarks/thirdparty.py 'monai:*'    # some

60 models of pytorchcv and 10 of segmentation-models-pytorch, drawn once and for all, 20 of transformers built from
small configurations, and five of monai. Each is judged as `every_model.py` does, its smooth activations too where it
has no rectifier; then its output and three of its layers are explained, which gives maps or an error of ours. A run
over all of them writes its part of docs/coverage.md.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import random
import signal
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import attribkit

sys.path.insert(0, str(Path(__file__).parent))

import every_model  # after the path that leads there
import examination
from every_model import Record

RESULTS = every_model.ROOT / "runs" / "thirdparty.jsonl"
SEED = 0
Built = tuple[nn.Module, Tensor]
"""A model and an image of the size that it is made for."""


# Models -----------------------------------------------------------------------------------------------------


def of_pytorchcv(name: str) -> Built:
    provider: Any = importlib.import_module("pytorchcv.model_provider")
    model = provider.get_model(name, pretrained=False)
    for name, buffer in model.named_buffers():  # CondenseNet's, which come with the weights: all are one channel before
        if name.endswith(".index"):
            buffer.copy_(torch.randperm(len(buffer)))
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    channels, size = getattr(model, "in_channels", first.in_channels), getattr(model, "in_size", (224, 224))
    return model, torch.randn(channels, *size)


def of_segmentation(name: str) -> Built:
    smp: Any = importlib.import_module("segmentation_models_pytorch")
    architecture, encoder = name.split(" on ")
    return getattr(smp, architecture)(encoder, encoder_weights=None), torch.randn(3, 64, 64)


def of_transformers(name: str) -> Built:
    library: Any = importlib.import_module("transformers")
    size, options = TRANSFORMERS[name]
    config = next(name[: -len(head)] for head in HEADS if name.endswith(head)) + "Config"
    return getattr(library, name)(getattr(library, config)(**options)), torch.randn(3, size, size)


def of_monai(name: str) -> Built:
    nets: Any = importlib.import_module("monai.networks.nets")
    options, channels = MONAI[name]
    return getattr(nets, name)(**options), torch.randn(channels, 64, 64)


HEADS = ("ForImageClassification", "ForDepthEstimation", "ForSemanticSegmentation", "ForObjectDetection", "Model")
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,  # or what heads say drowns in what the body says
}
PATCHES = {"image_size": 64, "patch_size": 16}
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
SEGFORMER = {**STAGES, "num_attention_heads": [1, 2, 4, 8], "decoder_hidden_size": 32}
DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 5,
    "use_pretrained_backbone": False,
    "use_timm_backbone": True,
    "backbone": "test_resnet",
}
SMALL_DPT = {**TINY, "num_hidden_layers": 4, **PATCHES, "backbone_out_indices": [0, 1, 2, 3]}
TRANSFORMERS: dict[str, tuple[int, dict[str, Any]]] = {
    "ViTModel": (64, {**TINY, **PATCHES}),
    "ViTForImageClassification": (64, {**TINY, **PATCHES, "hidden_act": "relu"}),
    "DeiTModel": (64, {**TINY, **PATCHES}),
    "BeitModel": (64, {**TINY, **PATCHES}),
    "Dinov2Model": (64, {**TINY, **PATCHES}),
    "CLIPVisionModel": (64, {**TINY, **PATCHES}),
    "YolosForObjectDetection": (64, {**TINY, "image_size": [64, 64], "patch_size": 16}),
    "ConvNextForImageClassification": (64, STAGES),
    "ConvNextV2Model": (64, STAGES),
    "ResNetForImageClassification": (64, {**STAGES, "embedding_size": 16, "layer_type": "basic"}),
    "RegNetForImageClassification": (64, {**STAGES, "embedding_size": 16, "groups_width": 8}),
    "MobileNetV1ForImageClassification": (64, {"depth_multiplier": 0.25}),
    "MobileNetV2ForImageClassification": (64, {"depth_multiplier": 0.35}),
    "SwinModel": (64, {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}),
    "SegformerForSemanticSegmentation": (64, SEGFORMER),
    "PoolFormerModel": (64, STAGES),
    "DPTForDepthEstimation": (
        64,
        {**SMALL_DPT, "neck_hidden_sizes": [16, 16, 16, 16], "fusion_hidden_size": 16, "is_hybrid": False},
    ),
    "GLPNForDepthEstimation": (64, SEGFORMER),
    "DetrForObjectDetection": (64, DETR),
    "ConditionalDetrForObjectDetection": (64, DETR),
}
UNET = {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 1}
MONAI: dict[str, tuple[dict[str, Any], int]] = {
    "DenseNet121": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 3}, 1),
    "UNet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **UNET}, 1),
    "SegResNet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, 1),
    "Quicknat": ({"num_classes": 3}, 1),
    "BasicUNet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, 1),
}
SOURCES: dict[str, Callable[[str], Built]] = {
    "pytorchcv": of_pytorchcv,
    "segmentation_models_pytorch": of_segmentation,
    "transformers": of_transformers,
    "monai": of_monai,
}
ARCHITECTURES = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus")
ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0", "densenet121", "vgg11_bn", "timm-regnetx_002", "mit_b0")
UNFIT = {
    **dict.fromkeys(("PAN", "DeepLabV3", "DeepLabV3Plus"), ("densenet121", "vgg11_bn")),
    **dict.fromkeys(("UnetPlusPlus", "Linknet"), ("mit_b0",)),
}


def everything() -> list[str]:
    """The names, the same every time."""
    drawn = random.Random(SEED)
    provider: Any = importlib.import_module("pytorchcv.model_provider")
    pairs = [
        f"{architecture} on {encoder}"
        for architecture in ARCHITECTURES
        for encoder in ENCODERS
        if encoder not in UNFIT.get(architecture, ())  # which the library refuses to build
    ]
    return [
        *(f"pytorchcv:{name}" for name in drawn.sample(sorted(provider._models), 60)),
        *(f"segmentation_models_pytorch:{name}" for name in drawn.sample(pairs, 10)),
        *(f"transformers:{name}" for name in TRANSFORMERS),
        *(f"monai:{name}" for name in MONAI),
    ]


# One of them ------------------------------------------------------------------------------------------------


def examine(name: str) -> Record:
    """Whether a model's maps are the oracle's, and what `explain` makes of its output and of its layers."""
    return examination.settled(lambda: _examined(name))


def _examined(name: str) -> Record:
    library, _, own = name.partition(":")
    model, example = SOURCES[library](own)
    model.eval()
    x = examination.input_that_fits(model, example)
    foreign = _foreign_errors(model, x)
    record = examination.judged(model, x, "rectifiers")
    if record.get("rectified") is False:
        record["smooth"] = examination.settled(lambda: examination.judged(model, x, "all"))
    if foreign:
        record |= {"status": "failed", "why": foreign[0]}
    return record


def _foreign_errors(model: nn.Module, x: Tensor) -> list[str]:
    """What `explain` raises that is no error of ours, about the output and three layers."""
    layers = [name for name, _ in model.named_modules() if name]
    asked = [None, *random.Random(SEED).sample(layers, min(3, len(layers)))]
    return [error for layer in asked if (error := _foreign_error(model, x, layer)) is not None]


def _foreign_error(model: nn.Module, x: Tensor, layer: str | None) -> str | None:
    try:
        attribkit.explain(model, x, layer=layer, output=_first, activations="all")
    except attribkit.AttribkitError:
        return None
    except Exception as error:  # that is what is looked for
        return f"explain(layer={layer!r}) raises {type(error).__name__}: {error}"[:300]
    return None


def _first(output: Any) -> Any:
    return next(examination.tensors_of(output), output)


# The page ---------------------------------------------------------------------------------------------------


@cache
def stamp() -> dict[str, str]:
    """What a result holds for."""
    versions = {library: importlib.metadata.version(library.replace("_", "-")) for library in SOURCES}
    explaining = every_model.digest([*(every_model.ROOT / "attribkit" / "explaining").glob("*.py"), Path(__file__)])
    return versions | {"torch": torch.__version__, "engine": every_model.stamp()["engine"], "explaining": explaining}


COLUMNS = ("right", "refused", "wrong", "undecided", "no effect", "too large", "failed")


def table(records: list[Record]) -> str:
    """One line a library, then what is neither right nor refused."""
    lines = [f"| library | models | {' | '.join(COLUMNS)} | with all: right | wrong |", f"|---|{'---:|' * 10}"]
    for library in SOURCES:
        members = [r for r in records if r["name"].startswith(f"{library}:")]
        counts = [len(members), *(sum(r["status"] == status for r in members) for status in COLUMNS)]
        counts += [sum(every_model.smooth(status)(r) for r in members) for status in ("right", "wrong")]
        lines.append(f"| {library} {stamp()[library]} | {' | '.join(str(count or '') for count in counts)} |")
    odd = [r for r in records if r["status"] not in ("right", "refused")]
    return "\n".join([*lines, "", *(f"- `{r['name']}`: {r['status']}, {every_model.why(r)}" for r in odd)])


def section(records: list[Record]) -> str:
    """The part of docs/coverage.md."""
    drawn = (
        "Made by `make thirdparty`: 60 models of pytorchcv and 10 of segmentation-models-pytorch, drawn by a fixed "
        "seed, 20 of transformers from small configurations and five of monai, with random weights, judged as above. "
        "*Failed* is also a model about whose output or layers `explain` raises an error that is none of ours."
    )
    return f"{every_model.OTHERS}\n{drawn}\n\n{table(records)}\n"


def main() -> int:
    """Examine what is asked for and not known yet; 1 if anything is wrong."""
    asked = every_model.options(__doc__ or "").parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process is left behind
    patterns = asked.patterns or ["*"]
    names = [name for name in everything() if any(fnmatchcase(name, pattern) for pattern in patterns)]
    found = every_model.gone_through(examine, names, {}, stamp(), RESULTS, asked)
    records = [found[name] for name in names]
    print(table(records))
    if not asked.patterns:
        page, _, _ = every_model.PAGE.read_text(encoding="utf-8").partition(every_model.OTHERS)
        every_model.PAGE.write_text(page + section(records), encoding="utf-8")
    return int(any(record["status"] == "wrong" or every_model.smooth("wrong")(record) for record in records))


if __name__ == "__main__":
    sys.exit(main())
