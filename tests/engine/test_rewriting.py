"""Rewriting: the original stays as it was, the rewritten net is an ordinary module, and what cannot work is refused."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed
import torch.utils.checkpoint
from nets import NETS, SMOOTH_NETS
from oracles import attribution, mixed_signal, state_digest
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap
from torch.nn import functional as F

import attribkit

RULES = ["backprop", "deconvnet", "guided"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A module in double precision, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


class Block(nn.Module):
    """One ReLU held, two called; a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.act(self.norm(self.conv(x)))) - F.relu(-x)


class Small(nn.Module):
    """A net with every sort of site: held and called, in place, pools, dropout, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.block = Block()
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.block(self.pool(torch.relu_(self.stem(x)))), 2)
        return self.head(self.drop(x.flatten(1)))


small = functools.partial(seeded, Small)
IMAGES = (2, 3, 8, 8)


def pulled_down(net: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """What a net brings down to x from a fixed signal of both signs."""
    image = x.detach().clone().requires_grad_()
    return torch.autograd.grad(mixed_signal(net(image)), image)[0]


def layered(*modules: nn.Module) -> nn.Module:
    return seeded(lambda: nn.Sequential(*modules))


class Calling(nn.Module):
    """A module whose forward is a function of it and its input."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


# The original stays as it was -------------------------------------------------------------------------------


def digest_with_modes(model: nn.Module) -> tuple[str, list[bool]]:
    return state_digest(model), [module.training for module in model.modules()]


@pytest.mark.parametrize("rule", RULES)
def test_an_error_in_the_middle_of_forward_leaves_the_original_as_it_was(rule: str) -> None:
    """Whatever raises inside a rewritten forward pass reaches the caller, and the original shows no trace of it."""

    def explode(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.sum() > 1e6:
            raise RuntimeError("in the middle")

    model = small()
    model.block.register_forward_hook(explode)
    before = digest_with_modes(model)
    net = attribkit.rewrite(model, rule)
    with pytest.raises(RuntimeError, match="in the middle"):
        net(noise(*IMAGES) * 1e8)
    assert digest_with_modes(model) == before
    assert torch.equal(net(noise(*IMAGES)), copy.deepcopy(model).eval()(noise(*IMAGES)))
    expected = attribution(model, noise(*IMAGES), mixed_signal, rule)
    torch.testing.assert_close(pulled_down(net, noise(*IMAGES)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_an_error_in_the_middle_of_backward_leaves_the_original_as_it_was(rule: str) -> None:
    """Whatever raises on the way down reaches the caller; the original and later calls are untouched by it."""

    def explode(signal: Tensor) -> None:
        raise RuntimeError("on the way down")

    model, x = small(), noise(*IMAGES)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = digest_with_modes(model)
    net = attribkit.rewrite(model, rule)
    image = x.clone().requires_grad_()
    output = net(image)
    output.grad_fn.next_functions[1][0].register_hook(lambda down, signal: explode(signal[0]))
    with pytest.raises(RuntimeError, match="on the way down"):
        output.sum().backward()
    assert image.grad is None
    assert digest_with_modes(model) == before
    expected = attribution(model, x, mixed_signal, rule)
    torch.testing.assert_close(pulled_down(net, x), expected, rtol=0, atol=1e-12)


def test_an_error_in_the_rule_itself_leaves_the_original_as_it_was() -> None:
    """A custom rule that raises spoils nothing but its own backward pass."""

    def broken(signal: Tensor, gate: Tensor) -> Tensor:
        raise ZeroDivisionError("a rule")

    model = small()
    before = digest_with_modes(model)
    net = attribkit.rewrite(model, broken)
    with pytest.raises(ZeroDivisionError, match="a rule"):
        pulled_down(net, noise(*IMAGES))
    assert digest_with_modes(model) == before


def test_no_lift_stays_behind_after_an_error() -> None:
    """After a forward pass that raised, functions outside of it are torch's own again."""
    net = attribkit.rewrite(Calling(lambda self, x: F.relu(x).view(-1, 7)), "deconvnet")
    with pytest.raises(RuntimeError, match=r"view size|shape"):
        net(noise(1, 3))
    x = noise(5).requires_grad_()
    (found,) = torch.autograd.grad(F.relu(x).sum(), x)
    assert torch.equal(found, (x > 0).double())


def test_modes_are_kept_module_by_module() -> None:
    """The rewritten net is in eval mode and `train()` leaves it there; the original keeps each module's own mode."""
    model = small().train()
    model.block.norm.eval()
    modes = [module.training for module in model.modules()]
    net = attribkit.rewrite(model, "guided")
    for returned in (net, net.train(), net.train(True), net.eval(), net.requires_grad_(False)):
        assert returned is net
        assert not any(module.training for module in net.modules())
    first = net(noise(*IMAGES))
    assert torch.equal(first, net(noise(*IMAGES)))
    assert [module.training for module in model.modules()] == modes
    nn.Sequential(net).train()
    assert not any(module.training for module in net.modules())


def test_gradients_of_the_weights_are_never_written() -> None:
    """A backward pass of the rewritten net gives no weight of the original a gradient."""
    model = small()
    net = attribkit.rewrite(model, "backprop")
    x = noise(*IMAGES).requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_hooks_of_the_user_act_in_both_and_are_kept_by_the_original() -> None:
    """Hooks on activation modules change the rewritten output as they change the original's, in the same calls."""
    calls: list[bool] = []

    def double(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        calls.append(True)
        return 2 * output

    model, x = small().eval(), noise(*IMAGES)
    handles = [model.block.act.register_forward_hook(double)]
    handles.append(model.block.act.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.5,)))
    handles.append(model.pool.register_forward_hook(double))
    before = state_digest(model)
    net = attribkit.rewrite(model, "guided")
    assert state_digest(model) == before
    assert torch.equal(net(x), model(x))
    assert len(calls) == 4
    torch.testing.assert_close(pulled_down(net, x), attribution(model, x, mixed_signal, "guided"), rtol=0, atol=1e-12)
    for handle in handles:
        handle.remove()
    assert not model.block.act._forward_hooks
    assert not torch.equal(net(x), model(x)), "taking hooks off the original does not reach a net made before"


def test_weights_loaded_later_are_seen() -> None:
    """`load_state_dict`, an optimizer's step and batch norm's running statistics all reach the rewritten net."""
    model, x = small(), noise(*IMAGES)
    net = attribkit.rewrite(model, "guided")

    def still_the_same() -> Tensor:
        plain = copy.deepcopy(model).eval()
        found = net(x)
        assert torch.equal(found, plain(x))
        expected = attribution(plain, x, mixed_signal, "guided")
        torch.testing.assert_close(pulled_down(net, x), expected, rtol=0, atol=1e-12)
        return found

    outputs = [still_the_same()]
    with torch.no_grad():
        other = {name: value + 1 if "running" in name else 2 * value for name, value in model.state_dict().items()}
    model.load_state_dict(other)
    outputs.append(still_the_same())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(noise(*IMAGES, seed=1)).sum().backward()
    outputs.append(still_the_same())  # the forward pass in training mode has moved the running statistics
    optimizer.step()
    outputs.append(still_the_same())
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == len(outputs)


# Threads and memory -----------------------------------------------------------------------------------------


def test_eight_threads_with_rules_of_their_own_on_one_model() -> None:
    """Eight threads that rewrite and run one model at the same time each get what they would get alone."""
    model = small()
    tasks = [(rule, switches, noise(*IMAGES, seed=i)) for i, (rule, switches) in enumerate(EIGHT)]

    def run(task: tuple[Any, str, Tensor]) -> Tensor:
        rule, switches, x = task
        return pulled_down(attribkit.rewrite(model, rule, switches=switches), x)

    alone = [run(task) for task in tasks]
    before = state_digest(model)
    together = threading.Barrier(len(tasks))

    def many(task: tuple[Any, str, Tensor]) -> list[Tensor]:
        together.wait()
        return [run(task) for _ in range(10)]

    with ThreadPoolExecutor(len(tasks)) as pool:
        found = list(pool.map(many, tasks))
    assert all(torch.equal(one, expected) for row, expected in zip(found, alone, strict=True) for one in row)
    assert state_digest(model) == before
    assert len({tuple(expected.flatten().tolist()) for expected in alone}) == len(tasks)


EIGHT: list[tuple[Any, str]] = [
    ("backprop", "own"),
    ("deconvnet", "own"),
    ("guided", "own"),
    ("backprop", "uniform"),
    ("deconvnet", "center"),
    ("guided", "corner"),
    (attribkit.Rule("negative", function=lambda signal, gate: -signal.abs() * gate), "own"),
    (lambda signal, gate: signal, "uniform"),
]


def test_one_rewritten_net_in_several_threads() -> None:
    """Several threads calling one rewritten net get what one thread gets, and its sites are not mixed up."""
    net = attribkit.rewrite(small(), "guided")
    images = [noise(*IMAGES, seed=i) for i in range(8)]
    alone = [pulled_down(net, x) for x in images]
    sites = net.sites
    together = threading.Barrier(len(images))

    def many(x: Tensor) -> list[Tensor]:
        together.wait()
        return [pulled_down(net, x) for _ in range(10)]

    with ThreadPoolExecutor(len(images)) as pool:
        found = list(pool.map(many, images))
    assert all(torch.equal(one, expected) for row, expected in zip(found, alone, strict=True) for one in row)
    assert net.sites == sites


def growth(action: Callable[[], object], rounds: int = 3, times: int = 350) -> float:
    """By how many blocks of memory Python grows per call, over about a thousand calls.

    The least of a few rounds: caches fill up once, but a leak shows in every round, by at least a block a call.
    """
    grown = []
    for _ in range(rounds):
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(times):
            action()
        gc.collect()
        grown.append((sys.getallocatedblocks() - before) / times)
    return min(grown)


@pytest.mark.parametrize("switches", ["own", "uniform"])
def test_hundreds_of_calls_leave_nothing_behind(switches: str) -> None:
    """Forward and backward passes of a rewritten net keep no memory."""
    net, x = attribkit.rewrite(small(), "guided", switches=switches), noise(1, 3, 8, 8).requires_grad_()

    def call() -> None:
        x.grad = None
        net(x).sum().backward()

    assert growth(call) < 0.5


def test_hundreds_of_rewrites_leave_nothing_behind() -> None:
    """Rewriting one model again and again keeps no memory, also when the nets are run."""
    model, x = small(), noise(1, 3, 8, 8)

    def call() -> None:
        pulled_down(attribkit.rewrite(model, "guided"), x)

    assert growth(call) < 0.5


# Wrappers ---------------------------------------------------------------------------------------------------


def wrapped_in(name: str, model: nn.Module) -> nn.Module:
    if name == "DataParallel":
        return nn.DataParallel(model)
    if name == "torch.compile":
        return torch.compile(model, backend="eager")  # type: ignore[return-value]
    if name == "model.compile":
        model.compile(backend="eager")
        return model
    if name == "DataParallel of torch.compile":
        return nn.DataParallel(torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    return attribkit.rewrite(model, "deconvnet")


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "name", ["DataParallel", "torch.compile", "model.compile", "DataParallel of torch.compile", "rewrite"]
)
def test_wrappers_are_taken_off(name: str, inside: bool) -> None:
    """A wrapped model gives what the bare one gives, also as a part of another; names and original stay."""
    x = noise(*IMAGES)
    plain = nn.Sequential(small(), nn.ReLU()) if inside else small()
    model = wrapped_in(name, small())
    model = nn.Sequential(model, nn.ReLU()) if inside else model
    before = state_digest(model)
    net, expected = attribkit.rewrite(model, "guided"), attribkit.rewrite(plain, "guided")
    assert torch.equal(pulled_down(net, x), pulled_down(expected, x))
    assert [site.name for site in net.sites] == [site.name for site in expected.sites]
    assert state_digest(model) == before


@pytest.fixture
def process_group() -> Iterator[None]:
    """A process group of one that opens no socket."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_is_taken_off() -> None:
    """DistributedDataParallel, too, gives what the bare model gives."""
    x, model = noise(*IMAGES), nn.parallel.DistributedDataParallel(small())
    found = pulled_down(attribkit.rewrite(model, "guided"), x)
    assert torch.equal(found, pulled_down(attribkit.rewrite(small(), "guided"), x))


# What is refused --------------------------------------------------------------------------------------------


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))


def traced() -> nn.Module:
    return torch.jit.trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(1, 3))  # type: ignore[no-any-return]


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), {nn.Linear})


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3), nn.ReLU())


def lazy_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.LazyBatchNorm2d(), nn.ReLU())


def nested() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    model.deep = deep
    return model


REFUSED = {
    scripted: ("TorchScript", "pass the eager model"),
    traced: ("TorchScript", "pass the eager model"),
    quantized: ("quantized", "pass the float model"),
    lazy: ("0 (LazyLinear) is still lazy", "call the model once"),
    lazy_norm: ("1 (LazyBatchNorm2d) is still lazy", "call the model once"),
    nested: ("holds something that cannot be copied", "nested too deeply"),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("make", REFUSED)
def test_what_has_no_faithful_copy_is_refused_in_one_line(make: Callable[[], nn.Module], inside: bool) -> None:
    """The message says what stands in the way and what to do; a part of a model is named."""
    model = make()
    if inside:
        model = nn.ModuleDict({"part": model})
        model.forward = lambda x: model["part"](x)
    with pytest.raises(attribkit.CannotRewrite) as caught:
        attribkit.rewrite(model, "backprop")
    why, what = REFUSED[make]
    message = str(caught.value)
    assert "\n" not in message
    assert why in message
    assert what in message
    assert not inside or "part" in message or make is nested


def test_the_error_of_a_copy_that_fails_keeps_its_cause() -> None:
    """Whoever wants to know what could not be copied finds the error of the copy behind ours."""
    with pytest.raises(attribkit.CannotRewrite) as caught:
        attribkit.rewrite(nested())
    assert isinstance(caught.value.__cause__, RecursionError)


def test_a_model_that_makes_parameters_at_its_first_call_is_refused() -> None:
    """Weights made by the shadow alone would be other than the original's; after one call all is well."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear: nn.Module | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.linear is None:
                self.linear = nn.Linear(3, 3, dtype=torch.float64)
            return F.relu(self.linear(x))

    model, x = Late(), noise(2, 3)
    with pytest.raises(attribkit.CannotRewrite, match="call it once before you rewrite it"):
        attribkit.rewrite(model, "guided")(x)
    assert model.linear is None
    model(x)
    assert torch.equal(attribkit.rewrite(model, "guided")(x), model(x))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_functions_are_refused(use_reentrant: bool) -> None:
    """A function inside gradient checkpointing is computed again where the lift cannot follow: that is said."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(
            lambda t: self.conv(F.relu(self.conv(t))), x, use_reentrant=use_reentrant
        )

    model, x = seeded(lambda: Calling(forward, conv=nn.Conv2d(3, 3, 1))), noise(*IMAGES)
    before = state_digest(model)
    with pytest.raises(attribkit.CannotRewrite, match=r"checkpointing .* turn it off"):
        pulled_down(attribkit.rewrite(model, "guided"), x)
    assert state_digest(model) == before


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_modules_follow_the_rule_or_are_refused(use_reentrant: bool) -> None:
    """Activation modules inside gradient checkpointing give the rule's map or our own error, nothing else."""

    def forward(self: Any, x: Tensor) -> Tensor:
        part = torch.utils.checkpoint.checkpoint(self.part, self.stem(x), use_reentrant=use_reentrant)
        return self.stem(F.relu(part))

    model = seeded(lambda: Calling(forward, stem=nn.Conv2d(3, 3, 1), part=nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())))
    x = noise(*IMAGES).requires_grad_()
    plain = copy.deepcopy(model)
    plain.function = lambda self, x: self.stem(F.relu(self.part(self.stem(x))))
    expected = attribution(plain, x, mixed_signal, "guided")
    try:
        mixed_signal(attribkit.rewrite(model, "guided")(x)).backward()
    except attribkit.CannotRewrite as error:
        refusal = str(error)
    else:
        refusal = "checkpointing"
        torch.testing.assert_close(x.grad, expected, rtol=0, atol=1e-12)
    assert "checkpointing" in refusal


INVALID: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rule by name": ({"rule": "guide"}, ValueError, "backprop, deconvnet, guided"),
    "rule of another type": ({"rule": 3}, TypeError, "not int"),
    "no rule": ({"rule": None}, TypeError, "not NoneType"),
    "activations": ({"activations": "smooth"}, ValueError, "'rectifiers', 'all'"),
    "a list of activations": ({"activations": ["relu"]}, ValueError, "'rectifiers', 'all'"),
    "switches by name": ({"switches": "none"}, ValueError, "'own', 'uniform', 'center', 'corner'"),
    "switches by path": ({"switches": "cat.safetensors"}, ValueError, "Switches.load"),
    "no switches": ({"switches": None}, ValueError, "'own'"),
    "switches of another type": ({"switches": {"pool": torch.zeros(1)}}, ValueError, "'own'"),
    "overlap": ({"overlap": "mean"}, ValueError, "'add', 'overwrite'"),
    "replay": ({"replay": "up"}, ValueError, "'down', 'both'"),
    "norms": ({"norms": True}, ValueError, "'rule', 'bypass', 'gradient'"),
}


@pytest.mark.parametrize("case", INVALID)
def test_wrong_arguments_are_told_the_right_ones(case: str) -> None:
    """One line that names the argument's choices, before anything is copied."""
    arguments, error, says = INVALID[case]
    with pytest.raises(error) as caught:
        attribkit.rewrite(small(), **arguments)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "tensor(" not in str(caught.value) or case == "switches of another type"


@pytest.mark.parametrize("model", [None, "resnet50", 3])
def test_what_is_no_model_is_refused(model: Any) -> None:
    """A name or nothing at all is told what `rewrite` takes."""
    with pytest.raises(TypeError, match=r"nn\.Module or a function of tensors, not"):
        attribkit.rewrite(model)


# Nothing to rewrite -----------------------------------------------------------------------------------------


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)


NOTHING: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, bool]] = {
    "transformer": (transformer, (2, 5, 8), "gelu", True),
    "GELU modules": (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU()), (2, 4), "gelu", True),
    "GELU called": (lambda: Calling(lambda self, x: F.gelu(x)), (2, 4), "gelu", True),
    "GELU and SiLU": (lambda: Calling(lambda self, x: self.a(F.silu(x)), a=nn.GELU()), (2, 4), "gelu, silu", True),
    "sigmoid": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), (2, 4), "sigmoid", False),
    "hardtanh": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Hardtanh()), (2, 4), "hardtanh", False),
    "none": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (2, 4), "none", False),
}


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_rewrite_is_an_error_that_says_what_was_seen(name: str, rule: str) -> None:
    """The message names rule, activations and the argument that would swap them, and swaps them if given."""
    make, size, seen, swappable = NOTHING[name]
    model, x = seeded(make), noise(*size)
    with pytest.raises(attribkit.NothingToRewrite) as caught:
        attribkit.rewrite(model, rule)(x)
    message = str(caught.value)
    assert rule in message
    assert seen in message
    assert "\n" not in message
    if swappable:
        assert 'activations="all"' in message
        attribkit.rewrite(model, rule, activations="all")(x)
    else:
        with pytest.raises(attribkit.NothingToRewrite) as caught:
            attribkit.rewrite(model, rule, activations="all")(x)
        assert 'activations="all"' not in str(caught.value)


@pytest.mark.parametrize("name", NOTHING)
def test_backprop_is_never_without_something_to_do(name: str) -> None:
    """The chain rule holds in every net, so there is nothing to raise."""
    make, size, _, _ = NOTHING[name]
    model, x = seeded(make).eval(), noise(*size)
    # Not bit for bit: torch sums a transformer's tokens in another order if the weights need a gradient.
    torch.testing.assert_close(attribkit.rewrite(model, "backprop")(x), model(x), rtol=0, atol=1e-14)


def test_a_custom_rule_that_finds_nothing_is_refused_too() -> None:
    """Also a rule of one's own must not be a silent no-op."""
    with pytest.raises(attribkit.NothingToRewrite, match="mine"):
        attribkit.rewrite(nn.Linear(2, 2), attribkit.Rule("mine", gate=False))(torch.ones(1, 2))


# Sites ------------------------------------------------------------------------------------------------------


def told(net: attribkit.Rewritten) -> list[tuple[str, str, str, str, int, bool]]:
    return [(s.name, s.op, s.kind, s.how, s.calls, s.swapped) for s in net.sites]


def test_sites_are_named_and_ordered_by_the_forward_pass() -> None:
    """Functions carry the module that called them and a per-call index; order is that of the last forward pass."""
    net = attribkit.rewrite(small(), "guided")
    net(noise(*IMAGES))
    assert told(net) == [
        ("#relu", "relu", "rectifier", "function", 1, True),
        ("pool", "max_pool2d", "pool", "module", 1, True),
        ("block.act", "relu", "rectifier", "module", 1, True),
        ("block#relu", "relu", "rectifier", "function", 1, True),
        ("block#relu:1", "relu", "rectifier", "function", 1, True),
        ("#max_pool2d", "max_pool2d", "pool", "function", 1, True),
    ]


def test_sites_of_modules_are_known_before_the_first_call() -> None:
    """Before a forward pass the modules are listed, with no call yet; functions are not known."""
    net = attribkit.rewrite(small(), "guided")
    assert told(net) == [
        ("pool", "max_pool2d", "pool", "module", 0, True),
        ("block.act", "relu", "rectifier", "module", 0, True),
    ]


def test_a_module_that_is_called_several_times_is_one_site() -> None:
    """One module is one site that counts its calls; one that is not called stays in the list, at its end."""
    forward = lambda self, x: self.used(self.used(x) - 1) + self.used(-x)  # noqa: E731
    net = attribkit.rewrite(Calling(forward, unused=nn.ReLU6(), used=nn.ReLU()), "guided")
    for _ in range(2):
        net(noise(2, 3))
        assert told(net) == [
            ("used", "relu", "rectifier", "module", 3, True),
            ("unused", "relu6", "rectifier", "module", 0, True),
        ]


def test_sites_that_are_left_alone_are_listed() -> None:
    """Smooth activations and gates are listed and not swapped; with `activations="all"` only gates are left."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.silu(self.act(F.relu(x)))
        return x * torch.sigmoid(x.mean()) * self.gate(x) * F.hardsigmoid(x).tanh()

    make = functools.partial(Calling, forward, act=nn.GELU(), gate=nn.Sigmoid())
    for activations in ("rectifiers", "all"):
        net = attribkit.rewrite(make(), "guided", activations=activations)
        net(noise(2, 3))
        assert [(s.name, s.kind, s.swapped) for s in net.sites] == [
            ("#relu", "rectifier", True),
            ("act", "smooth", activations == "all"),
            ("#silu", "smooth", activations == "all"),
            ("#sigmoid", "other", False),
            ("gate", "other", False),
            ("#hardsigmoid", "other", False),
            ("#tanh", "other", False),
        ]
        assert f"{sum(s.swapped for s in net.sites)} of 7 sites swapped" in repr(net)


@pytest.mark.parametrize("made", ["module", "function"])
def test_hardtanh_from_minus_one_is_left_alone_and_listed(made: str) -> None:
    """Hardtanh(-1, 1) is no rectifier: it keeps its gradient under every rule, and is told as not swapped."""
    act = nn.Hardtanh() if made == "module" else F.hardtanh
    model, x = seeded(lambda: Calling(lambda self, x: F.relu(self.act(x)), act=nn.Identity())), noise(4, 5)
    model.act = act if made == "module" else Calling(lambda self, x: F.hardtanh(x))
    net = attribkit.rewrite(model, "deconvnet")
    expected = torch.relu(pulled_down(lambda x: x, x)) * ((x > -1) & (x < 1))
    assert torch.equal(pulled_down(net, x), expected)
    (site,) = (site for site in net.sites if "hardtanh" in site.op)
    assert (site.kind, site.swapped, site.calls) == ("other", False, 1)


def test_clamps_that_are_no_rectifiers_are_not_taken_for_activations() -> None:
    """A clamp of integers, one with another lower bound and one from above keep their gradient and are no sites."""

    def forward(self: Any, x: Tensor) -> Tensor:
        index = torch.arange(-2, 3).clamp(min=0).clamp_(0, 2).clip(min=0)
        return F.relu(x.clamp(min=-0.5).clamp(max=0.9).clamp(0.1, 2)[:, torch.maximum(index, index * 0)])

    model, x = Calling(forward), noise(4, 5)
    net = attribkit.rewrite(model, "deconvnet")
    assert torch.equal(net(x), model(x))
    assert [site.name for site in net.sites] == ["#relu"]
    expected = attribution(model, x, mixed_signal, "deconvnet")
    torch.testing.assert_close(pulled_down(net, x), expected, rtol=0, atol=1e-12)


# An ordinary module -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", [lambda net: pickle.loads(pickle.dumps(net)), copy.deepcopy])
def test_a_rewritten_net_can_be_pickled_and_copied(way: Callable[[nn.Module], nn.Module], rule: str) -> None:
    """A copy gives the same outputs, maps and sites, and shares nothing with the net or the original."""
    model, x = small(), noise(*IMAGES)
    net = attribkit.rewrite(model, rule, switches="center")
    expected, output = pulled_down(net, x), net(x)
    other = way(net)
    assert torch.equal(other(x), output)
    assert torch.equal(pulled_down(other, x), expected)
    assert other.sites == net.sites
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(net(x), output)


def test_a_net_with_recorded_switches_can_be_pickled() -> None:
    """Recorded switches travel with the net."""
    model, x = small(), noise(*IMAGES)
    net = attribkit.rewrite(model, "guided", switches=attribkit.record_switches(model, noise(*IMAGES, seed=1)))
    assert torch.equal(pulled_down(pickle.loads(pickle.dumps(net)), x), pulled_down(net, x))


def test_what_has_no_address_is_not_taken_for_a_parameter() -> None:
    """On the meta device, and in an empty tensor, everything lies at address 0: writing in place is none of ours."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    assert attribkit.rewrite(net.to("meta"), "guided")(torch.ones(1, 3, 5, 5, device="meta")).shape == (1, 2, 3, 3)

    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.relu = nn.Parameter(torch.empty(0)), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            torch.empty(0).add_(1)
            return self.relu(x)

    x = noise(1, 3, 4, 4)
    assert torch.equal(attribkit.rewrite(Empty(), "guided")(x), x.relu())


def test_moving_a_rewritten_net_does_not_move_the_original() -> None:
    """`.to()` another type or device changes the net alone."""
    model, x = small().float(), noise(*IMAGES)
    before = state_digest(model)
    net = attribkit.rewrite(model, "guided").to(torch.float64)
    assert state_digest(model) == before
    expected = attribution(copy.deepcopy(model).double(), x, mixed_signal, "guided")
    torch.testing.assert_close(pulled_down(net, x), expected, rtol=0, atol=1e-12)
    assert net.to("meta")(x.to("meta")).shape == (2, 3)
    assert net.half().model.stem.weight.dtype == torch.float16
    assert state_digest(model) == before


@pytest.mark.parametrize("second", RULES)
@pytest.mark.parametrize("first", RULES)
def test_rewriting_again_equals_rewriting_the_original(first: str, second: str) -> None:
    """The second rule replaces the first, whose net keeps its own."""
    model, x = small(), noise(*IMAGES)
    once = attribkit.rewrite(model, first, switches="corner")
    before = pulled_down(once, x)
    twice = attribkit.rewrite(once, second)
    assert torch.equal(pulled_down(twice, x), pulled_down(attribkit.rewrite(model, second), x))
    assert torch.equal(pulled_down(once, x), before)


@pytest.mark.parametrize("switches", ["own", "uniform"])
@pytest.mark.parametrize("rule", RULES)
def test_transforms_of_functions_equal_a_loop(rule: str, switches: str) -> None:
    """`vmap(grad)`, `jacrev` and `is_grads_batched` give what one backward pass after the other gives."""
    net, x = attribkit.rewrite(small(), rule, switches=switches), noise(3, 3, 8, 8)

    def jacobian(image: Tensor) -> Tensor:
        image = image[None].clone().requires_grad_()
        return torch.cat([torch.autograd.grad(y, image, retain_graph=True)[0] for y in net(image)[0]])

    rows = torch.stack([jacobian(image) for image in x])
    of_one = vmap(grad(lambda image: net(image[None])[0, 1]))(x)
    torch.testing.assert_close(of_one, rows[:, 1], rtol=0, atol=1e-12)
    torch.testing.assert_close(jacrev(lambda image: net(image[None])[0])(x[0]), rows[0], rtol=0, atol=1e-12)
    image = x[:1].clone().requires_grad_()
    output = net(image)
    (batched,) = torch.autograd.grad(output, image, torch.eye(3).double()[:, None], is_grads_batched=True)
    torch.testing.assert_close(batched[:, 0], rows[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_autocast_computes_as_the_original_does(rule: str) -> None:
    """Under autocast the output is the original's, bit for bit, and the map comes in the image's type."""
    model, x = small().float().eval(), noise(*IMAGES).float()
    net = attribkit.rewrite(model, rule)
    image = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = net(image), model(image)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(mixed_signal(found), image)
    exact = attribution(model, x, mixed_signal, rule)
    assert gradient.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.99


def test_backprop_under_autocast_is_autograds() -> None:
    """The plain rule and autograd round alike, to what bfloat16 holds."""
    model, x = small().float().eval(), noise(*IMAGES).float()
    maps = []
    for net in (attribkit.rewrite(model, "backprop"), model):
        image = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output = net(image)
        maps += torch.autograd.grad(mixed_signal(output), image)
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=0.02 * maps[1].abs().max().item())


@pytest.mark.parametrize("rule", RULES)
def test_a_bfloat16_model_stays_in_bfloat16(rule: str) -> None:
    """Output as the original's, bit for bit, and a map in bfloat16 that is the exact one up to rounding."""
    model, x = small().bfloat16().eval(), noise(*IMAGES).bfloat16()
    net = attribkit.rewrite(model, rule)
    assert torch.equal(net(x), model(x))
    found = pulled_down(net, x)
    exact = attribution(copy.deepcopy(model).double(), x.double(), mixed_signal, rule)
    assert found.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(found.double().flatten(), exact.flatten(), dim=0) > 0.98


class ManySites(nn.Module):
    """Sites of every sort in one net small enough to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.pool, self.lrn, self.leaky = nn.MaxPool2d(3, 2, 1), nn.LocalResponseNorm(3, 1.0), nn.PReLU(4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lrn(self.pool(self.act(self.norm(self.conv(x)))))
        x = x + F.relu(self.leaky(self.conv(x[:, :3])))
        x = F.relu(F.local_response_norm(F.max_pool2d(x, 2), 3), inplace=True) + x.relu().clamp(min=0).amax(
            (2, 3), True
        )
        return self.last(F.relu6(F.gelu(x)))


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("switches", ["own", "uniform"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_rewritten_net_compiles_in_one_graph(backend: str, switches: str) -> None:
    """`torch.compile(fullgraph=True)` gives the same outputs and maps under every rule."""
    model, x = seeded(ManySites), noise(*IMAGES)
    for rule in RULES:
        net = attribkit.rewrite(model, rule, switches=switches, activations="all")
        compiled = torch.compile(net, backend=backend, fullgraph=True)
        torch.testing.assert_close(compiled(x), net(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(pulled_down(compiled, x), pulled_down(net, x), rtol=0, atol=1e-12)
    assert torch._dynamo.utils.counters["graph_break"] == {}


DIFFERENTIABLE_TWICE = {
    name: build
    for name, build in {**NETS, **SMOOTH_NETS}.items()
    if name not in ("torch.fx",)  # the same functions as others
}


@pytest.mark.parametrize("name", DIFFERENTIABLE_TWICE)
def test_the_map_of_backprop_can_be_differentiated_again(name: str) -> None:
    """The gradient of a backprop map is autograd's second derivative, for rectifiers, pools and smooth functions."""
    second = []
    for rewritten in (False, True):
        model, x = DIFFERENTIABLE_TWICE[name]()
        model = model.eval().requires_grad_(False)
        net = attribkit.rewrite(model, "backprop", activations="all") if rewritten else model
        image = x.clone().requires_grad_()
        # squared, so that a net which is linear in parts has a second derivative
        (gradient,) = torch.autograd.grad(mixed_signal(net(image)) ** 2, image, create_graph=True)
        second += torch.autograd.grad(mixed_signal(gradient), image)
    assert second[0].abs().max() > 0
    torch.testing.assert_close(second[1], second[0], rtol=0, atol=1e-10 * second[0].abs().max().item())


# A plain callable -------------------------------------------------------------------------------------------


def function(x: Tensor) -> Tensor:
    return F.max_pool2d(F.relu(F.relu(x) - 0.5) * x, 2)


@pytest.mark.parametrize("rule", RULES)
def test_a_plain_function_is_lifted(rule: str) -> None:
    """A function of tensors has nothing to copy: its calls follow the rule, and are numbered."""
    x = noise(*IMAGES)
    net = attribkit.rewrite(function, rule)
    assert torch.equal(net(x), function(x))
    expected = attribution(Calling(lambda self, x: function(x)), x, mixed_signal, rule)
    torch.testing.assert_close(pulled_down(net, x), expected, rtol=0, atol=1e-12)
    assert [site.name for site in net.sites] == ["#relu", "#relu:1", "#max_pool2d"]


def test_a_plain_function_without_rectifiers_is_refused_when_called() -> None:
    """What it calls is known no earlier; then the usual error comes."""
    with pytest.raises(attribkit.NothingToRewrite, match="gelu"):
        attribkit.rewrite(lambda x: F.gelu(x), "guided")(noise(3))


def test_integer_inputs_reach_the_model_as_they_are() -> None:
    """A net over token numbers is rewritten like any other; a ReLU of integers stays torch's own."""

    def forward(self: Any, tokens: Tensor) -> Tensor:
        return F.relu(self.embedding(F.relu(self.act(tokens)).clamp(min=1)))

    model = seeded(lambda: Calling(forward, embedding=nn.Embedding(5, 3), act=nn.ReLU()))
    tokens = torch.tensor([[3, -2, 0], [1, 4, 2]])
    net = attribkit.rewrite(model, "guided")
    assert torch.equal(net(tokens), model(tokens))
    assert [site.name for site in net.sites if site.how == "function"] == ["#relu"]


class UnderAnotherMode(nn.Module):
    """Calls its parts under a mode of its own, which stands before the lift."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        with torch.device("cpu"):
            return F.relu(self.act(self.norm(self.conv(x))) - 0.5)


def test_another_mode_inside_forward() -> None:
    """Modules and functions are sites, once each, also where a forward enters a mode of its own."""
    model, x = seeded(UnderAnotherMode), noise(1, 3, 6, 6)
    net = attribkit.rewrite(model, "guided")
    assert torch.equal(net(x), model.eval()(x))
    assert [(s.name, s.how, s.calls) for s in net.sites] == [("act", "module", 1), ("#relu", "function", 1)]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_linear_modules_stay_what_they_are(rank: int) -> None:
    """A convolution and a batch norm keep their kind, go on reading shared weights and can be pickled."""
    conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
    model = seeded(
        lambda: nn.Sequential(conv(2, 3, 3, stride=2), norm(3), nn.ReLU(), conv(3, 2, 1, padding_mode="reflect"))
    )
    net, x = attribkit.rewrite(model, "backprop"), noise(2, 2, *[8] * rank)
    assert isinstance(net.model[0], conv)
    assert isinstance(net.model[1], norm)
    for weight in model.parameters():
        weight.data += 0.1
    plain, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    model.eval()(plain).square().sum().backward()
    net(ours).square().sum().backward()
    assert ours.grad is not None
    assert plain.grad is not None
    assert torch.allclose(ours.grad, plain.grad)
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again(x), net(x))
    with pytest.raises(ValueError, match="expected"):
        net.model[1](x[0, 0, 0])


class _Aside(nn.Module):
    """The only ReLU is in a table of positions, which no image passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.table = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.conv(x)).mean((2, 3)) + self.table(torch.ones(2))


def test_a_rectifier_that_the_image_does_not_pass_is_none() -> None:
    """The rule would change nothing, and the plain gradient is not called guided."""
    net = attribkit.rewrite(_Aside(), "guided")
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        attribkit.NothingToRewrite, match=r"no rectifier in this model that the image passes through \(relu elsewhere\)"
    ):
        net(image.requires_grad_())
    assert attribkit.rewrite(_Aside(), "guided", activations="all")(image).shape == (1, 4)
    with pytest.raises(attribkit.NothingToRewrite, match="relu elsewhere"):
        attribkit.explain(_Aside(), image.detach())


def test_a_rectifier_that_is_never_called_is_none() -> None:
    """Neither does a module that the model holds and does not use."""

    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.spare = nn.Conv2d(3, 4, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(self.conv(x))

    net = attribkit.rewrite(Spare(), "guided")
    with pytest.raises(attribkit.NothingToRewrite, match="finds no rectifier"):
        net(torch.randn(1, 3, 8, 8))


def test_a_module_used_beside_the_image_and_on_its_way_follows_the_rule() -> None:
    """In whatever order it is called."""

    class Both(nn.Module):
        def __init__(self, first: bool) -> None:
            super().__init__()
            self.conv, self.relu, self.first = nn.Conv2d(3, 4, 3), nn.ReLU(), first

        def forward(self, x: Tensor) -> Tensor:
            if self.first:
                return self.relu(self.conv(x)) + self.relu(torch.ones(1))
            return self.relu(torch.ones(1)) + self.relu(self.conv(x))

    for first in (True, False):
        net = attribkit.rewrite(Both(first), "guided")
        net(torch.randn(1, 3, 8, 8).requires_grad_())
        assert [(site.calls, site.swapped) for site in net.sites] == [(2, True)]


@pytest.mark.parametrize("rule", RULES)
def test_an_activation_without_a_gradient_beside_others_is_left_aside(rule: str) -> None:
    """Under `no_grad` the image does not pass it, whether what it is given needs a gradient or not."""

    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            weight = self.gate(x).mean() + self.gate(torch.ones(1)).mean()
        return F.relu(x) * weight + self.act(torch.ones(1))

    net, x = attribkit.rewrite(Calling(forward, gate=nn.ReLU(), act=nn.ReLU()), rule), noise(*IMAGES)
    net(x.clone().requires_grad_())
    assert {site.name: site.swapped for site in net.sites} == {"gate": False, "#relu": True, "act": False}
    net(x)  # nothing shows what is beside
    assert {site.name: site.swapped for site in net.sites} == {"gate": True, "#relu": True, "act": True}


@pytest.mark.parametrize("where", [torch.where, lambda condition: torch.where(condition=condition)])
def test_a_rectifier_by_the_positions_that_where_finds_is_listed(where: Callable[..., Any]) -> None:
    """It is left alone, and that is said; what `torch.where` gives is torch's own, with a gradient and without."""

    def zeroed(x: Tensor) -> Tensor:
        return (x * 1).index_put(where(x < 0), x.new_zeros(()))

    x = noise(*IMAGES)
    net = attribkit.rewrite(lambda x: F.relu(x) + zeroed(x), "guided")
    for image in (x, x.clone().requires_grad_()):
        assert torch.equal(net(image), F.relu(x) + zeroed(x))
    assert [(s.name, s.swapped) for s in net.sites] == [("#relu", True), ("graph#index_put by a comparison", False)]
    with pytest.raises(attribkit.PartlyRewritten, match="index_put by a comparison"):
        attribkit.rewrite(net.model, "guided", strict=True)(x.clone().requires_grad_())


EVEN = torch.arange(8) % 2 == 0
CHOOSING: dict[str, Callable[[Tensor], Tensor]] = {
    "a choice times the image": lambda x: torch.where(EVEN, x, 2 * x) * x,
    "a choice times another": lambda x: torch.where(EVEN, x, 2 * x) * torch.where(EVEN, 3 * x, x),
    "a product with the maximum": lambda x: x * x.max(),
    "a product with the minimum": lambda x: x * torch.min(x),
}


@pytest.mark.parametrize("name", CHOOSING)
def test_a_choice_between_two_tensors_is_no_mask(name: str) -> None:
    """What it is multiplied by is no rectifier; neither is the product with an extreme value."""
    net = attribkit.rewrite(lambda x: F.relu(x) + CHOOSING[name](x), "guided", strict=True)
    net(noise(*IMAGES).requires_grad_())
    assert [site.name for site in net.sites] == ["#relu"]
