"""One model under every rule, beside the oracle and beside Captum; `every_model.py` goes through them all.

A model is *right* when the three rules give the oracle's maps, the forward pass is equal bit for bit, the model is as
it was before, and recorded switches replay; *refused* when it has no rectifier between image and output, and the oracle
finds none either: that needs no weights, and is seen on torch's meta device. Quantized models are refused by name. What
has no rectifier is examined again with `activations="all"`, in columns of its own. *Too large* for the memory: maps are
not judged. *Undecided*: with random weights nothing reaches the image, or the rules agree there.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import attribkit
from attribkit.adapters.source import UnknownModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracles import (  # type: ignore[import-not-found]  # after the path that leads there
    attribution,
    copied,
    graph_of,
    mixed_signal,
    rectifier_of,
    state_digest,
    switches_of,
    tensors_in,
)
from zoo import animate, relative_error  # type: ignore[import-not-found]

RULES = ("backprop", "deconvnet", "guided")
TOLERANCE = 1e-4
NOTHING = 1e-6  # a difference that rounding makes
LEAST_COPIES = 3  # of all weights at once: the model's, and its twin's, of which the oracle makes one more
SIZES = (64, 96, 160, 320, None)  # None: the model's own

Record = dict[str, Any]


def examine(name: str, activations: str = "rectifiers") -> Record:
    """All that is asked of one model, whose rectifiers follow the rules, or with "all" its smooth activations."""
    record = on_paper(name) if activations == "rectifiers" else {}
    if record.get("status") == "refused" and not record["pools"]:
        return record
    return record | settled(lambda: in_full(name, activations))


def settled(work: Callable[[], Record]) -> Record:
    """What came out of an examination, also where it failed."""
    try:
        return work()
    except NotImplementedError as error:
        return {"status": "undecided", "why": str(error)}
    except Exception as error:  # one model that fails is one line of the table
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return {"status": "too large", "why": "its weights and maps do not fit"}
        return {"status": "failed", "why": " ".join(f"{type(error).__name__}: {error}".split())[:300]}


def on_paper(name: str) -> Record:
    """What can be said without weights, on torch's meta device: whether there is anything to rewrite, and where.

    "unknown" is the status of all that has to be looked at in full.
    """
    try:
        with torch.device("meta"):
            loaded = attribkit.load(name, "none")
        model = _judged_part(loaded.model)
        x = loaded.preprocess.example()[None].to("meta")
        try:
            net = attribkit.rewrite(model, "guided")
            with torch.device("meta"):
                net(x.clone().requires_grad_())
        except attribkit.NothingToRewrite as error:
            return _refusal(model, x, str(error))
    except UnknownModel as error:
        return {"status": "refused", "why": str(error).partition(": load")[0], "pools": 0}
    except attribkit.CannotRewrite as error:
        return {"status": "refused", "why": str(error), "pools": 0}
    except Exception:  # code that reads values, which are not there
        return {"status": "unknown"}
    return {"status": "unknown", "parameters": sum(p.numel() for p in model.parameters()), **_sites_of(net)}


def bytes_of(name: str) -> int:
    """How much room a model's weights take, where it can be built without them."""
    try:
        with torch.device("meta"):
            return sum(p.numel() * p.element_size() for p in attribkit.load(name, "none").model.parameters())
    except Exception:  # code that reads values, which are not there
        return 0


def in_full(name: str, activations: str) -> Record:
    """The maps of one model with random weights."""
    if 0 < resource.getrlimit(resource.RLIMIT_DATA)[0] < LEAST_COPIES * bytes_of(name):
        raise MemoryError  # now, and not after minutes
    loaded = attribkit.load(name, "none")
    model = _judged_part(loaded.model)
    return judged(model, input_that_fits(model, loaded.preprocess.example()), activations)


def judged(model: nn.Module, x: Tensor, activations: str) -> Record:
    """The maps of a model with random weights, on an input that it takes."""
    record: Record = {"input": list(x.shape[1:]), "parameters": sum(p.numel() for p in model.parameters())}
    enliven(model, x)
    try:
        net = rewritten(model, "guided", activations)
        net(x.clone().requires_grad_())
    except attribkit.NothingToRewrite as error:
        record |= _refusal(model, x, str(error), activations)
        asks_for_switches = activations == "rectifiers" and record["status"] == "refused"
        return record | (_switches(model, x, "backprop") if asks_for_switches else {})
    record |= _sites_of(net)
    found = _against_the_oracle(model, x, activations)
    if found["status"] == "wrong" and not found["problems"]:
        # Rounding adds up over hundreds of layers: twice the digits set it off from a mistake. And torch's own batch
        # norm is wrong on the way down for a single image whose signal comes from tokens, so two of them.
        twice = torch.cat([x, x.flip(-1)]).double()
        found = _against_the_oracle(model.double(), twice, activations) | {"checked": "twice"}
        model.float()
    return record | found | (_switches(model, x, "deconvnet") if activations == "rectifiers" else {})


def rewritten(model: nn.Module, rule: str, activations: str) -> attribkit.Rewritten:
    """The model under a rule."""
    net: attribkit.Rewritten = attribkit.rewrite(model, rule, activations=activations)  # type: ignore[arg-type]
    return net


def _judged_part(model: nn.Module) -> nn.Module:
    """The model, of detectors the backbone."""
    detects = type(model).__module__.startswith("torchvision.models.detection")
    return model.get_submodule("backbone") if detects else model


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The tensors of an output of any form."""
    yield from tensors_in(output)


def _sites_of(net: attribkit.Rewritten) -> Record:
    return {
        "ops": dict(Counter(site.op for site in net.sites if site.swapped)),
        "left": dict(Counter(site.op for site in net.sites if not site.swapped)),
        "functions": sum(site.how == "function" and site.swapped for site in net.sites),
        "pools": sum(site.kind == "pool" for site in net.sites),
    }


def enliven(model: nn.Module, x: Tensor) -> None:
    """Open what starts closed: gains, scales and last layers that are zero or tiny before training."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.detach().abs().max() < 1e-2:
            nn.init.normal_(parameter, std=0.5) if parameter.dim() < 2 else nn.init.normal_(parameter, std=0.02)
    animate(model, torch.randn(4, *x.shape[1:]))
    model.eval()


def quiet(model: nn.Module) -> nn.Module:
    """A copy for the oracle, whose activations do not write in place."""
    twin = _plain_copy(model)
    module: Any
    for module in twin.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    return twin


def _plain_copy(model: nn.Module) -> nn.Module:
    twin = copied(model)
    for module in twin.modules():
        if type(module).__name__ in ("QuickGELU", "QuickGELUActivation"):  # by arithmetic, which in the graph is none
            module.forward = lambda x: torch.nn.functional.silu(1.702 * x) / 1.702
    return twin.eval().requires_grad_(False)


def functional(model: nn.Module) -> nn.Module:
    """A copy for the oracle in which nothing is written in place."""
    return _Functional(_plain_copy(model)).eval()


class _Functional(nn.Module):
    """A model in which nothing is written in place: what it writes is a new tensor, as its graph then shows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any) -> Any:
        return torch.func.functionalize(lambda *inputs: self.model(*inputs), remove="mutations")(*args)


# `functionalize` turns a write into an operator `copy`, which in torch has no gradient.
COPIES = torch.library.Library("aten", "IMPL")
COPIES.impl("copy", lambda x, other, asynchronous=False: other.expand(x.shape).to(x.dtype).clone(), "Autograd")


def oracles_twin(model: nn.Module, x: Tensor, plain: Any) -> nn.Module:
    """A copy that computes what the model does, and whose graph shows all of it."""
    for make in (quiet, functional):  # one after the other, as each takes the room of all weights
        twin = make(model)
        if _shows(twin, x, plain):
            return twin
    raise NotImplementedError("what it writes in place the oracle does not follow")


def _shows(twin: nn.Module, x: Tensor, plain: Any) -> bool:
    output = copied(twin)(x.clone().requires_grad_())  # a copy, as a model may keep what it computes
    pairs = zip(tensors_in(output), tensors_in(plain), strict=True)
    if max(relative_error(one.detach(), other.detach()) for one, other in pairs) > TOLERANCE:
        return False  # what is written in place is read elsewhere
    try:
        graph_of(mixed_signal(output))
    except NotImplementedError:  # parts of tensors are written in place
        return False
    return True


def input_that_fits(model: nn.Module, example: Tensor) -> Tensor:
    """The smallest of some squares that the model takes, for speed; its own size if none."""
    for size in SIZES:
        shape = example.shape if size is None else (*example.shape[:-2], size, size)
        x = torch.randn(1, *shape)
        try:
            with torch.no_grad():
                model(x)
        except Exception:  # too small a model's way of saying so is its own
            if size is None:
                raise
        else:
            return x
    raise AssertionError("the last size raises")


def _refusal(model: nn.Module, x: Tensor, why: str, activations: str = "rectifiers") -> Record:
    """A refusal is right where the oracle has nothing to do either between image and output."""
    twin = quiet(model)
    with x.device, _Called() as called:  # the device is for what the model makes as it runs
        output = twin(x.clone().requires_grad_())
    try:
        rectifiers = [node.name() for node in graph_of(mixed_signal(output)) if rectifier_of(node, activations)]
    except NotImplementedError:  # a part of the graph is hidden: then not one may have been called
        rectifiers = sorted(called.names & RECTIFYING)
    if rectifiers:
        return {"status": "wrong", "why": f"refused, but has {', '.join(rectifiers)}"}
    captums = dict.fromkeys(RULES[1:], "silent")
    return {"status": "refused", "why": why, "captum": captums, "pools": _pools(model, x), "rectified": False}


def _pools(model: nn.Module, x: Tensor) -> int:
    """How many max-pools a forward pass meets."""
    net = attribkit.rewrite(model, "backprop")
    with x.device, torch.no_grad():
        net(x)
    return sum(site.kind == "pool" for site in net.sites)


class _Called(TorchDispatchMode):
    """The names of all operators that run, and the switches of max-pools among them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()
        self.switches: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__.rstrip("_"))
        output = func(*args, **(kwargs or {}))
        if "max_pool" in func.overloadpacket.__name__ and isinstance(output, tuple):
            self.switches.append(output[1])
        return output


RECTIFYING = {"relu", "hardtanh", "leaky_relu", "rrelu_with_noise", "_prelu_kernel", "threshold", "clamp", "clamp_min"}


def _against_the_oracle(model: nn.Module, x: Tensor, activations: str) -> Record:
    """Each rule's map beside the oracle's; Captum's, which knows rectifiers only, too."""
    plain = _plain_output(model, x)
    twin = oracles_twin(model, x, plain)
    before = state_digest(model)
    errors: dict[str, float] = {}
    captums: dict[str, str] = {}
    maps: dict[str, Tensor] = {}
    problems = []
    for rule in RULES:
        image = x.clone().requires_grad_()
        output = rewritten(model, rule, activations)(image)
        if not _equal(output, plain):
            problems.append("the forward pass differs")
        (gradient,) = torch.autograd.grad(mixed_signal(output), image)
        maps[rule] = attribution(twin, x, mixed_signal, rule, activations)
        if not 0 < maps[rule].abs().max().item() < float("inf"):
            return {"status": "undecided", "why": f"the {rule} map is zero or infinite with random weights"}
        errors[rule] = relative_error(gradient, maps[rule])
    if state_digest(model) != before:
        problems.append("the model was changed")
    for rule in RULES[1:] if activations == "rectifiers" else ():
        captums[rule] = _captum(copied(twin), x, rule, maps)
    contrast = relative_error(maps["guided"], maps["backprop"])
    status = "wrong" if problems or max(errors.values()) > TOLERANCE else "right"
    if status == "right" and contrast < 10 * TOLERANCE:
        if contrast < NOTHING:
            why = "its rectifiers do not lie between image and output: every rule gives the plain gradient"
        else:
            why = f"with random weights the rules differ by no more than {contrast:.1e}"
        return {"status": "no effect" if contrast < NOTHING else "undecided", "why": why, "errors": errors}
    return {"status": status, "problems": problems, "errors": errors, "contrast": contrast, "captum": captums}


def _equal(output: Any, other: Any) -> bool:
    """Bit for bit, wherever tensors are."""
    pairs = zip(tensors_in(output), tensors_in(other), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def _captum(model: nn.Module, x: Tensor, rule: str, right: dict[str, Tensor]) -> str:
    """What Captum makes of a copy: right, wrong, silent (the plain gradient under another name) or an error."""
    method = (captum.attr.GuidedBackprop if rule == "guided" else captum.attr.Deconvolution)(model)
    method.gradient_func = lambda forward, inputs, *rest: torch.autograd.grad(mixed_signal(forward(*inputs)), inputs)
    try:
        theirs = method.attribute(x.clone().requires_grad_())
    except Exception as error:  # in-place activations and others: Captum's answer is an error then
        return f"error: {type(error).__name__}"
    if relative_error(theirs, right[rule]) <= TOLERANCE:
        return "right"
    return "silent" if relative_error(theirs, right["backprop"]) <= TOLERANCE else "wrong"


def _known_switches(model: nn.Module, x: Tensor, pools: int) -> list[Tensor]:
    """Those that torch's operators took; the oracle's, from the graph, where a pool is an ordinary maximum."""
    with _Called() as called:
        copied(model).eval()(x.clone())
    if len(called.switches) == pools:
        return called.switches
    found: list[Tensor] = switches_of(oracles_twin(model, x, _plain_output(model, x)), x, mixed_signal)
    return found


def _plain_output(model: nn.Module, x: Tensor) -> Any:
    # A copy here, too; and its weights without gradients, as torch may sum a Linear in another order with them (see
    # Limits in docs/architecture.md).
    return copied(model).eval().requires_grad_(False)(x.clone().requires_grad_())


def _switches(model: nn.Module, x: Tensor, rule: str) -> Record:
    """Recorded switches are those that torch takes, and replayed they give the maps of each image's own."""
    pools = _pools(model, x)
    if not pools:
        return {}
    switches = attribkit.record_switches(model, x)
    known = _known_switches(model, x, pools)
    mine = {tuple(index.flatten().tolist()) for index in switches.indices.values()}
    maps: list[Tensor] = []
    for how in (switches, "own"):
        image = x.clone().requires_grad_()
        output = attribkit.rewrite(model, rule, switches=how)(image)
        maps += torch.autograd.grad(mixed_signal(output), image)
    replayed = relative_error(*maps) <= TOLERANCE and mine >= {tuple(index.flatten().tolist()) for index in known}
    return {"replayed": replayed} | ({} if replayed else {"status": "wrong", "why": "switches differ"})
