"""Parts that hide what they do: custom Functions, checkpoints, compiled and scripted code, threads, recurrent nets."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.utils.checkpoint as torch_checkpoint
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from ways_harness import HONEST, LOOSE, RIGHT, LeftAlone, Net, OnlyBackprop, OrRefused, Plain, Refused, Ways, image

import attribkit
from attribkit.errors import NotSupported

ways = Ways("parts")

NOTHING = Refused(attribkit.NothingToRewrite)


# Functions of one's own -------------------------------------------------------------------------------------


class HandMade(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return signal * (x > 0)


class OfTorchsRelu(HandMade):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.relu(x)


class OfTheNewKind(Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.where(y > 0, signal, 0)


class InPlace(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return signal * y.sign()


class ByAtenBackward(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.ops.aten.relu.default(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward.default(signal, ctx.saved_tensors[0], 0)


class ByEnableGrad(Function):
    """Runs a part again on the way down, which is what a home-made checkpoint does."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = ctx.run(x)
        return None, torch.autograd.grad(y, x, signal)[0]


for _function in (HandMade, OfTorchsRelu, OfTheNewKind, ByAtenBackward):
    ways.function(f"a Function: {_function.__name__}", _function.apply, LeftAlone((_function.__name__,)))
    ways.function(f"a Function in a lambda: {_function.__name__}", lambda x, f=_function: f.apply(x), LeftAlone())
ways.function("a Function: InPlace", lambda x: InPlace.apply(x.clone()), LeftAlone(("InPlace",)))
ways.function("a checkpoint of one's own, of F.relu", lambda x: ByEnableGrad.apply(F.relu, x), HONEST)
ways.function("a checkpoint of one's own, of nn.ReLU", lambda x: ByEnableGrad.apply(nn.ReLU(), x), HONEST)


@ways.module("a checkpoint of one's own, of a part", HONEST)
class OwnCheckpoint(Net):
    def part(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.norm(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.conv2(ByEnableGrad.apply(self.part, self.conv1(x)))))


class Reversed(Function):
    """No rectifier, but nobody can see that from outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return -signal


class Rounded(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return signal


ways.function("a gradient reversal", Reversed.apply, LeftAlone(("Reversed",)), twin=Reversed.apply)
ways.function("a straight-through rounding", Rounded.apply, LeftAlone(("Rounded",)), twin=Rounded.apply)


def straight_through(x: Tensor) -> Tensor:
    return x + (F.relu(x) - x).detach()


ways.function("a straight-through ReLU", straight_through, NOTHING, twin=straight_through)


@torch.library.custom_op("ways::rectified", mutates_args=())
def custom_op(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def _keep(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(output)


custom_op.register_autograd(lambda ctx, signal: signal * (ctx.saved_tensors[0] > 0), setup_context=_keep)
ways.function("an operator of one's own", custom_op, LeftAlone())
ways.function("an operator of one's own, by name", lambda x: torch.ops.ways.rectified(x), LeftAlone())


# Checkpoints of torch's -------------------------------------------------------------------------------------


def checkpointed(name: str, **options: Any) -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = torch_checkpoint.checkpoint(self.part, self.conv1(x), **options)
            return self.conv3(torch_checkpoint.checkpoint(self.other, x, **options))

        def part(self, x: Tensor) -> Tensor:
            return self.pool(self.relu(self.norm(x)))

        def other(self, x: Tensor) -> Tensor:
            return F.relu(self.conv2(x))

    ways.module(name, OrRefused("checkpoint"))(Checkpointed)


checkpointed("torch's checkpoint, reentrant", use_reentrant=True)
checkpointed("torch's checkpoint, not reentrant", use_reentrant=False)
checkpointed("torch's checkpoint without the RNG", use_reentrant=False, preserve_rng_state=False)


@ways.module("torch's checkpoint_sequential", OrRefused("checkpoint"))
class InSegments(Net):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(self.norm, nn.ReLU(), self.pool, self.conv2, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch_checkpoint.checkpoint_sequential(self.part, 2, self.conv1(x), use_reentrant=False))


@ways.module("torch's checkpoint in training only")
class OnlyInTraining(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = torch_checkpoint.checkpoint(self.norm, x, use_reentrant=False) if self.training else self.norm(x)
        return self.conv3(self.relu(self.conv2(self.pool(self.relu(x)))))


# Where a mode does not reach --------------------------------------------------------------------------------


def disabled(how: Any) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with how():
            return F.relu(x)

    return run


ways.function("under DisableTorchFunctionSubclass", disabled(torch._C.DisableTorchFunctionSubclass), HONEST)
ways.function("under DisableTorchFunction", disabled(torch._C.DisableTorchFunction), HONEST)


def in_pool(x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(F.relu, x).result()


def in_thread(x: Tensor) -> Tensor:
    result: list[Tensor] = []
    thread = threading.Thread(target=lambda: result.append(x.clamp(min=0)))
    thread.start()
    thread.join()
    return result[0]


ways.function("F.relu in a thread pool", in_pool, HONEST)
ways.function("a clamp in a thread", in_thread, HONEST)
ways.function("torch.jit.fork", lambda x: torch.jit.wait(torch.jit.fork(F.relu, x)), HONEST)


@ways.module("modules in a thread pool", HONEST)
class Threaded(Net):
    def forward(self, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(2) as pool:
            halves = list(pool.map(lambda part: self.pool(self.relu(self.norm(self.conv1(part)))), x.chunk(2)))
            return torch.cat(list(pool.map(lambda part: self.conv3(F.relu(self.conv2(part))), halves)))


# Compiled, scripted, traced, exported -----------------------------------------------------------------------


@functools.cache
def compiled(backend: str) -> Callable[[Tensor], Tensor]:
    return torch.compile(lambda x: F.relu(x), backend=backend)


ways.function("a compiled function", lambda x: compiled("eager")(x), HONEST)
ways.function("a function compiled ahead", lambda x: compiled("aot_eager")(x), HONEST)


class WithPart(Net):
    """The network with its second half in a part of its own, which `pack` makes something else of."""

    def __init__(self, pack: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.part = pack(nn.Sequential(self.conv2, nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.part(self.pool(self.relu(self.norm(self.conv1(x))))))


def compiled_in_place(part: nn.Module) -> nn.Module:
    part.compile(backend="eager")
    return part


for _name, _pack, _expected in (
    ("compiled", lambda part: torch.compile(part, backend="eager"), RIGHT),
    ("compiled in place", compiled_in_place, RIGHT),
    ("scripted", torch.jit.script, OrRefused("TorchScript")),
    ("traced by jit", lambda part: torch.jit.trace(part, torch.zeros(2, 4, 3, 3)), OrRefused("TorchScript")),
    ("traced by fx", torch.fx.symbolic_trace, RIGHT),
    ("in DataParallel", nn.DataParallel, RIGHT),
    ("rewritten by another rule", lambda part: attribkit.rewrite(part, "deconvnet"), HONEST),
):
    ways.module(f"a part, {_name}", _expected, later="rewritten" not in _name)(functools.partial(WithPart, _pack))


@functools.cache
def exported() -> Any:
    return torch.export.export(nn.Sequential(nn.ReLU()), (torch.zeros(2, 4, 6, 6),)).module()


ways.function("an exported function", lambda x: exported()(x), HONEST)


@ways.module("a part, exported", HONEST, lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), modes=False)
class WithExported(nn.Module):
    """A net that cannot be put into eval mode, since its part refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.part = nn.Conv2d(3, 4, 3), exported()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.conv(x))


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return torch.relu(x)


def scripted_arithmetic(x: Tensor) -> Tensor:
    return x * (x > 0)


SCRIPTED = torch.jit.script(scripted_arithmetic)
TRACED = torch.jit.trace(lambda x: F.relu(x), torch.zeros(2))
SYMBOLIC = torch.fx.symbolic_trace(lambda x: F.relu(x))
ATEN = make_fx(lambda x: F.relu(x))(torch.zeros(2))
ways.function("a scripted function", lambda x: scripted(x), HONEST)
ways.function("a scripted function, held", scripted, HONEST)
ways.function("a scripted product with a comparison", lambda x: SCRIPTED(x), HONEST)
ways.function("a traced function", lambda x: TRACED(x), HONEST)
ways.function("a function traced by fx", lambda x: SYMBOLIC(x))
ways.function("a function traced by make_fx", lambda x: ATEN(x), HONEST)
ways.function("script_if_tracing", lambda x: torch.jit.script_if_tracing(lambda y: F.relu(y))(x))
ways.function("compiler.disable", lambda x: torch.compiler.disable(F.relu)(x))


# torch's own modules that rectify inside --------------------------------------------------------------------


class Recurrent(nn.Module):
    """A recurrent net over rows, behind a convolution, or the same by hand."""

    def __init__(self, by_hand: bool, cell: bool = False) -> None:
        super().__init__()
        self.conv, self.by_hand, self.cell = nn.Conv2d(3, 4, 3), by_hand, cell
        self.rnn = nn.RNNCell(4, 5, nonlinearity="relu") if cell else nn.RNN(4, 5, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).mean(3).permute(2, 0, 1)
        if not self.by_hand and not self.cell:
            return self.rnn(rows)[0]
        state, states = rows.new_zeros(rows.shape[1], 5), []
        for row in rows:
            state = self.step(row, state) if self.by_hand else self.rnn(row, state)
            states.append(state)
        return torch.stack(states)

    def step(self, row: Tensor, state: Tensor) -> Tensor:
        w, h, b, c = self.rnn.parameters()
        return F.relu(F.linear(row, w, b) + F.linear(state, h, c))


for _cell in (False, True):
    ways.module(f"nn.RNN{'Cell' * _cell} with relu", HONEST, functools.partial(Recurrent, True, _cell), exact=False)(
        functools.partial(Recurrent, False, _cell)
    )


class Tokens(nn.Module):
    """Patches through a layer of a transformer."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv2d(3, 8, 4, 4), layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.conv(x).flatten(2).transpose(1, 2))


def transformer(activation: Any) -> Callable[[], nn.Module]:
    layer = functools.partial(nn.TransformerEncoderLayer, 8, 2, 16, activation=activation, batch_first=True)
    return lambda: Tokens(layer)


# Whether a weight needs a gradient changes the order in which torch sums tokens: the last digit may differ.
ways.module("nn.TransformerEncoderLayer with 'relu'", RIGHT, transformer("relu"), exact=False)(transformer("relu"))
ways.module("nn.TransformerEncoderLayer with F.relu", RIGHT, transformer("relu"), exact=False)(transformer(F.relu))
ways.module("nn.TransformerEncoderLayer with nn.ReLU", RIGHT, transformer("relu"), exact=False)(transformer(nn.ReLU()))
ways.module("nn.TransformerEncoderLayer with aten.relu", HONEST, transformer("relu"), exact=False, later=False)(
    transformer(torch.ops.aten.relu.default)
)


def encoder(nested: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)


ways.module("nn.TransformerEncoder", RIGHT, lambda: Tokens(lambda: encoder(False)), exact=False)(
    lambda: Tokens(lambda: encoder(True))
)


@ways.module("FloatFunctional", RIGHT)
class Functional(Net):
    """As torchvision's models for quantization have it; all float."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x))
        x = self.pool(self.sum.add_relu(x, torch.zeros_like(x)))
        return self.conv3(self.sum.add_relu(self.conv2(x), torch.zeros(1)))


@ways.module("modules fused for quantization, in float", RIGHT)
class Fused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.ao.nn.intrinsic.ConvBn2d(self.conv1, self.norm)
        self.second = torch.ao.nn.intrinsic.ConvReLU2d(self.conv2, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.second(self.pool(F.relu(self.first(x)))))


# A gradient that forward takes for itself -------------------------------------------------------------------


class Inner(Net):
    """Weighs what it sees by the gradient of a score of its own."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        score = lambda y: F.relu(self.conv2(y)).square().sum()  # noqa: E731
        return self.conv3(F.relu(self.conv2(x)) * self.gradient(score, x))

    def gradient(self, score: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            return torch.autograd.grad(score(y), y)[0]


class InnerFromTheSameGraph(Inner):
    def gradient(self, score: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(score(x), x)[0]


class InnerByFunc(Inner):
    def gradient(self, score: Any, x: Tensor) -> Tensor:
        return torch.func.grad(score)(x.detach())


class InnerByBackward(Inner):
    def gradient(self, score: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            score(y).backward(inputs=[y])
        assert y.grad is not None
        return y.grad


class InnerWithGraph(Inner):
    def gradient(self, score: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(score(x), x, create_graph=True)[0]


for _kind in (Inner, InnerFromTheSameGraph, InnerByFunc, InnerByBackward):
    ways.module(f"a gradient of its own: {_kind.__name__}", LOOSE, Inner)(_kind)
ways.module("a gradient of its own: InnerWithGraph", OnlyBackprop(), InnerWithGraph)(InnerWithGraph)


# What a rule, which leads backwards, has no part in ----------------------------------------------------------


def itself(x: Tensor) -> Tensor:
    return x


def by_dual_numbers(x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(F.relu(forward_ad.make_dual(x, torch.ones_like(x)))).primal


BACKWARDS = Refused(NotSupported, "backwards", always=True)
ways.function("forward mode: jvp", lambda x: torch.func.jvp(F.relu, (x,), (torch.ones_like(x),))[0], BACKWARDS)
ways.function("forward mode: jacfwd", lambda x: x + torch.func.jacfwd(F.relu)(torch.zeros(1)), BACKWARDS, twin=itself)
ways.function("forward mode: dual numbers", by_dual_numbers, BACKWARDS)
ways.function("functionalize", torch.func.functionalize(lambda x: F.relu_(x.clone())), BACKWARDS)


# Tensors that no rule knows ---------------------------------------------------------------------------------


def nested(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")  # a prototype, torch says
        rows = torch.nested.as_nested_tensor([*x])
    return torch.nested.to_padded_tensor(F.relu(rows), 0.0)


def jagged(x: Tensor) -> Tensor:
    rows = torch.nested.as_nested_tensor([*x.flatten(1)[..., None]], layout=torch.jagged)
    return F.relu(rows).values().view_as(x)


ways.function("F.relu of a sparse tensor", lambda x: F.relu(x.to_sparse()).to_dense(), LeftAlone(("relu",)))
ways.function("nn.ReLU of a sparse tensor", lambda x: nn.ReLU()(x.to_sparse()).to_dense(), LeftAlone(("relu",)))
ways.function("F.relu of a nested tensor", nested, LeftAlone(("relu",)))
ways.function("F.relu of a jagged tensor", jagged, LeftAlone(("relu",)))


@ways.module("a rectifier that a hook on a tensor applies", RIGHT)
class TensorHooks(Net):
    """Hooks of the user's own on tensors, which pass the signal on."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x))
        if x.requires_grad:
            x.register_hook(lambda signal: signal * 1.0)
        return self.conv3(F.relu(self.conv2(self.pool(F.relu(x)))))


@ways.module("a small batch, through Plain", RIGHT, inputs=image(1, 3, 8, 8))
class OneImage(Plain):
    pass
