"""Which pixels made EfficientNet-Lite0 see a cat? The library at work, from a model to a picture.

python examples/explain_cat.py
"""

from pathlib import Path

import attribkit

HERE = Path(__file__).parent

loaded = attribkit.load("packaged:efficientnet_lite0")
image = loaded.preprocess(HERE / "cat.jpg")[None]
for method, attribution in attribkit.explain(loaded, image, ["guided", "deconvnet", "backprop"]).items():
    attribution.save(f"attribkit-out/cat-{method}.png")
    print(attribution)
