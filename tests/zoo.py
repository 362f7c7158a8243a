"""Real architectures of torchvision and timm under every rule, against the oracle: `make zoo` prints the table.

Weights are random, as the rules do not care which they are. What matters is that every path carries signal: the
last batch norm of a residual branch, which timm and torchvision start at zero, gets a scale of its own here, and
the running statistics are about those of a batch, so that nothing dies or explodes on the way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from oracles import attribution, mixed_signal, state_digest

import attribkit

RULES = ("backprop", "deconvnet", "guided")
TOLERANCE = 1e-4  # of the largest value of the oracle's map; all in float32
CONTRAST = 1e-2  # guided has to differ from backprop by more, or a rule that does nothing would pass


@dataclass(frozen=True)
class Entry:
    """An architecture and the side of its input.

    `ops` have to be among the sites that were swapped, and activations called as functions too, if `functional`.
    """

    name: str
    size: int = 64
    ops: tuple[str, ...] = ("relu",)
    functional: bool = False

    def build(self) -> tuple[nn.Module, Tensor]:
        """The model in eval mode and one image, the same at every call."""
        torch.manual_seed(0)
        model = _build(self.name)
        animate(model, torch.randn(4, 3, self.size, self.size))
        return model.eval(), torch.randn(1, 3, self.size, self.size)


ZOO = [
    Entry("torchvision:alexnet"),
    Entry("torchvision:vgg11", 32),
    Entry("torchvision:vgg11_bn", 32),
    Entry("torchvision:squeezenet1_1"),
    Entry("torchvision:googlenet", functional=True),
    Entry("torchvision:inception_v3", 96, functional=True),
    Entry("torchvision:densenet121", functional=True),
    Entry("torchvision:mobilenet_v2", ops=("relu6",)),
    Entry("torchvision:mobilenet_v3_small"),
    Entry("torchvision:mnasnet0_5"),
    Entry("torchvision:shufflenet_v2_x0_5"),
    Entry("torchvision:resnet18"),
    Entry("torchvision:resnet50"),
    Entry("torchvision:resnext50_32x4d"),
    Entry("torchvision:regnet_y_400mf"),
    Entry("timm:legacy_xception", 96),
    Entry("timm:xception41"),
    Entry("timm:pnasnet5large", ops=("relu", "max_pool2d")),
    Entry("timm:nasnetalarge", ops=("relu", "max_pool2d")),
    Entry("timm:inception_v4", 96),
    Entry("timm:inception_resnet_v2", 96),
    Entry("timm:resnetv2_50"),
    Entry("timm:tf_efficientnet_lite0", ops=("relu6",)),
    Entry("timm:dla34"),
    Entry("timm:hrnet_w18_small"),
    Entry("timm:res2net50_26w_4s"),
    Entry("timm:darknet53", ops=("leaky_relu",)),
    Entry("timm:cspresnet50", ops=("leaky_relu",)),
    Entry("timm:repvgg_a0"),
    Entry("timm:selecsls42b"),
    Entry("timm:resnest14d"),
    Entry("timm:skresnet18"),
    Entry("timm:legacy_seresnet18"),
    Entry("timm:dpn68"),
    Entry("timm:ese_vovnet19b_dw"),
    Entry("timm:tresnet_m", ops=("relu", "leaky_relu")),
    Entry("timm:resnetblur18"),
    Entry("timm:gernet_s"),
    Entry("timm:fbnetc_100"),
    Entry("timm:resnetv2_50d_gn"),
]


def _build(name: str) -> nn.Module:
    library, _, model = name.partition(":")
    if library == "timm":
        import timm

        return timm.create_model(model, pretrained=False)
    import torchvision

    takes_init = model in ("googlenet", "inception_v3")
    return torchvision.models.get_model(model, weights=None, **({"init_weights": False} if takes_init else {}))


def animate(model: nn.Module, images: Tensor) -> None:
    """Give every batch norm a scale and a shift, and statistics that are nine tenths those of `images`."""
    norms = [module for module in model.eval().modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
        norm.momentum = 0.9
        norm.train()
    if norms:
        with torch.no_grad():
            model(images)


@dataclass(frozen=True)
class Result:
    """What came out for one architecture."""

    entry: Entry
    sites: list[attribkit.Site]
    errors: dict[str, float]  # by rule: largest difference from the oracle's map, of the map's largest value
    strengths: dict[str, float]  # by rule: the largest value of the oracle's map
    contrast: float  # how far guided is from backprop, likewise
    forward_equal: bool
    state_equal: bool
    seconds: float

    @property
    def worst(self) -> float:
        """The largest error of any rule."""
        return max(self.errors.values())

    def problems(self) -> Iterator[str]:
        """Everything that is not as it should be, in words."""
        for rule in RULES:
            if not 0 < self.strengths[rule] < float("inf"):
                yield f"the oracle's {rule} map is of size {self.strengths[rule]}: there is nothing to compare"
            if not self.errors[rule] <= TOLERANCE:
                yield f"{rule} is {self.errors[rule]:.1e} from the oracle"
        if not self.contrast > CONTRAST:
            yield f"guided differs from backprop by no more than {self.contrast:.1e}"
        if not self.forward_equal:
            yield "the forward pass is not equal bit for bit"
        if not self.state_equal:
            yield "the model was changed"
        missing = set(self.entry.ops) - {site.op for site in self.sites if site.swapped}
        if missing:
            yield f"no site of {', '.join(sorted(missing))} was swapped"
        if self.entry.functional and not any(rectifies(site) and site.how == "function" for site in self.sites):
            yield "no activation called as a function was found"


def rectifies(site: attribkit.Site) -> bool:
    """Whether a site is an activation under the rule."""
    return site.swapped and site.kind == "rectifier"


def examine(entry: Entry) -> Result:
    """Run one architecture under every rule, and hold it against the oracle and its own untouched self."""
    start = time.perf_counter()
    model, x = entry.build()
    plain = model(x.clone().requires_grad_()).detach()
    before = state_digest(model)
    maps: dict[str, Tensor] = {}
    forward_equal = True
    for rule in RULES:
        net = attribkit.rewrite(model, rule)
        image = x.clone().requires_grad_()
        output = net(image)
        forward_equal &= torch.equal(output, plain)
        (maps[rule],) = torch.autograd.grad(mixed_signal(output), image)
    state_equal = state_digest(model) == before
    expected = {rule: attribution(model, x, mixed_signal, rule) for rule in RULES}
    return Result(
        entry,
        net.sites,
        {rule: relative_error(maps[rule], expected[rule]) for rule in RULES},
        {rule: expected[rule].abs().max().item() for rule in RULES},
        relative_error(maps["guided"], maps["backprop"]),
        forward_equal,
        state_equal,
        time.perf_counter() - start,
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


HEADER = (
    f"{'model':<31}{'input':>6}{'swapped':>9}{'seen':>6}{'functions':>11}"
    f"{'backprop':>10}{'deconvnet':>11}{'guided':>9}{'contrast':>10}  forward  state{'s':>7}"
)


def row(result: Result) -> str:
    """One line of the table."""
    swapped = sum(site.swapped for site in result.sites)
    functions = sum(site.how == "function" for site in result.sites)
    errors = result.errors
    return (
        f"{result.entry.name:<31}{result.entry.size:>6}{swapped:>9}{len(result.sites):>6}{functions:>11}"
        f"{errors['backprop']:>10.1e}{errors['deconvnet']:>11.1e}{errors['guided']:>9.1e}{result.contrast:>10.2f}"
        f"  {'equal' if result.forward_equal else 'DIFFERS':<9}{'same' if result.state_equal else 'CHANGED':<7}"
        f"{result.seconds:>5.1f}"
    )


def main(names: list[str]) -> int:
    """Print the table, of all or of those whose name contains one of `names`; 1 if anything is wrong."""
    entries = [entry for entry in ZOO if not names or any(name in entry.name for name in names)]
    if not entries:
        print(f"no architecture of the zoo is called {', '.join(names)}", file=sys.stderr)
        return 2
    print(HEADER)
    results = []
    for entry in entries:
        results.append(examine(entry))
        print(row(results[-1]), flush=True)
    wrong = [(result.entry.name, problem) for result in results for problem in result.problems()]
    for name, problem in wrong:
        print(f"WRONG {name}: {problem}")
    worst = max(results, key=lambda result: result.worst)
    print(f"{len(results)} architectures, 3 rules: worst relative error {worst.worst:.1e}, {worst.entry.name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
