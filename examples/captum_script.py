"""Code that was written for Captum, with one import changed.

    python examples/captum_script.py

EfficientNet-Lite0 has ReLU6 everywhere, which Captum's GuidedBackprop passes over: its map is the plain gradient.
"""

from pathlib import Path

from captum.attr import NoiseTunnel, Saliency
from captum.metrics import infidelity

import attribkit
from attribkit.adapters.captum import GuidedBackprop  # was: from captum.attr import GuidedBackprop

HERE = Path(__file__).parent
CAT = 282  # tiger cat

loaded = attribkit.load("packaged:efficientnet_lite0")
image = loaded.preprocess(HERE / "cat.jpg")[None].requires_grad_()

guided = GuidedBackprop(loaded.model)
maps = guided.attribute(image, target=CAT)
plain = Saliency(loaded.model).attribute(image, target=CAT, abs=False)
apart = (maps - plain).abs().max() / plain.abs().max()
print(f"guided backprop and the plain gradient differ by {apart:.1f} of its largest value")

smooth = NoiseTunnel(guided).attribute(image, nt_samples=4, stdevs=0.1, target=CAT)
print(f"NoiseTunnel takes it: a map of {tuple(smooth.shape)}")

noise = 0.01
score = infidelity(loaded.model, lambda x: (x.new_full(x.shape, noise), x - noise), image, maps, target=CAT)
print(f"captum.metrics take it: infidelity {score.item():.3g}")
