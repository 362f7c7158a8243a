"""Maps of a folder of pictures, a batch at a time.

    python examples/batch_job.py [FOLDER]       # without one: the folder of this file

Each batch is one forward and one backward pass; each picture is explained for the class that it is taken for.
A picture that has its file already is left out, so that a job that was stopped goes on.
"""

import sys
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import attribkit

HERE = Path(__file__).parent
OUT = Path("attribkit-out/maps")

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
loaded = attribkit.load("packaged:efficientnet_lite0")


class Pictures(Dataset[tuple[str, Tensor]]):
    """Name and input of each picture that has no map yet."""

    def __init__(self) -> None:
        self.files = [file for file in sorted(folder.glob("*.jpg")) if not (OUT / f"{file.stem}.npz").exists()]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        return self.files[index].stem, loaded.preprocess(self.files[index])


OUT.mkdir(parents=True, exist_ok=True)
for names, images in DataLoader(Pictures(), batch_size=16):
    attribution = attribkit.explain(loaded, images, "guided")
    for name, unit, values in zip(names, attribution.units, attribution.values, strict=True):
        np.savez(OUT / f"{name}.npz", guided=values.numpy(), target=unit.channel)
        print(f"{name}: {loaded.labels[unit.channel]}")
