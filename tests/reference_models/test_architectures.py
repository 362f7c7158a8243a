"""The reference models are the paper's tables: layers, sizes and counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attribkit
from attribkit.reference_models.architectures import NAMES, Training, build

PRINTED = {
    "model_a": 839_242,
    "strided_cnn_a": 839_242,
    "convpool_cnn_a": 1_254_250,
    "all_cnn_a": 1_254_250,
    "model_b": 885_610,
    "strided_cnn_b": 885_610,
    "convpool_cnn_b": 1_300_618,
    "all_cnn_b": 1_300_618,
    "model_c": 954_730,
    "strided_cnn_c": 954_730,
    "convpool_cnn_c": 1_369_738,
    "all_cnn_c": 1_369_738,
    "all_cnn_b_imagenet": 9_372_840,
}

# kernel, channels out, stride, and the side of the map, all of it written out; p is a max-pool
WRITTEN_OUT = {
    "model_a": "5 96 1 32, p 16, 5 192 1 16, p 8, 3 192 1 6, 1 192 1 6, 1 10 1 6",
    "model_c": "3 96 1 32, 3 96 1 32, p 16, 3 192 1 16, 3 192 1 16, p 8, 3 192 1 6, 1 192 1 6, 1 10 1 6",
    "strided_cnn_b": "5 96 1 32, 1 96 2 16, 5 192 1 16, 1 192 2 8, 3 192 1 6, 1 192 1 6, 1 10 1 6",
    "strided_cnn_c": "3 96 1 32, 3 96 2 16, 3 192 1 16, 3 192 2 8, 3 192 1 6, 1 192 1 6, 1 10 1 6",
    "convpool_cnn_c": "3 96 1 32, 3 96 1 32, 3 96 1 32, p 16, 3 192 1 16, 3 192 1 16, 3 192 1 16, p 8, "
    "3 192 1 6, 1 192 1 6, 1 10 1 6",
    "all_cnn_a": "5 96 1 32, 3 96 2 16, 5 192 1 16, 3 192 2 8, 3 192 1 6, 1 192 1 6, 1 10 1 6",
    "all_cnn_c": "3 96 1 32, 3 96 1 32, 3 96 2 16, 3 192 1 16, 3 192 1 16, 3 192 2 8, 3 192 1 6, 1 192 1 6, 1 10 1 6",
}


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def shapes(net: nn.Module, image: Tensor) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, module in net.named_children():
        module.register_forward_hook(lambda _m, _i, out, name=name: found.__setitem__(name, tuple(out.shape[1:])))
    net.eval()(image)
    return found


@pytest.mark.parametrize("name", PRINTED)
def test_a_network_has_as_many_parameters_as_its_table(name: str) -> None:
    with torch.device("meta"):
        assert parameters(build(name)) == PRINTED[name]


def test_large_all_cnn_has_about_77_and_a_half_million_parameters() -> None:
    with torch.device("meta"):
        assert parameters(build("large_all_cnn")) == pytest.approx(77.5e6, rel=0.001)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_layers_are_those_of_the_table_in_their_order(name: str) -> None:
    net = build(name)
    sizes = shapes(net, torch.zeros(1, 3, 32, 32))
    told = []
    for layer, module in net.named_children():
        if isinstance(module, nn.Conv2d):
            told.append(f"{module.kernel_size[0]} {module.out_channels} {module.stride[0]} {sizes[layer][-1]}")
        elif isinstance(module, nn.MaxPool2d):
            assert (module.kernel_size, module.stride, module.ceil_mode) == (3, 2, True)
            told.append(f"p {sizes[layer][-1]}")
    assert ", ".join(told) == WRITTEN_OUT[name]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(("_a", "_b", "_c"))])
def test_every_convolution_is_followed_by_a_relu_and_named_in_order(name: str) -> None:
    children = list(build(name).named_children())
    convs = [index for index, (_, module) in enumerate(children) if isinstance(module, nn.Conv2d)]
    assert [children[index][0] for index in convs] == [f"conv{number + 1}" for number in range(len(convs))]
    assert all(isinstance(children[index + 1][1], nn.ReLU) for index in convs)
    kinds = {type(module) for _, module in children}
    assert kinds <= {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten}


def test_logits_are_the_mean_of_the_last_rectified_map() -> None:
    torch.manual_seed(0)
    net = build("all_cnn_c").eval()
    image = torch.randn(2, 3, 40, 33)
    last = image
    for name, module in net.named_children():
        if name not in ("mean", "flat"):
            last = module(last)
    assert last.shape[-2:] == (8, 7)
    assert torch.allclose(net(image), last.mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_classes_and_channels(name: str) -> None:
    with torch.device("meta"):
        net = build(name, classes=7, channels=1)
        side = {"large_all_cnn": 126, "zfnet": 224, "all_cnn_b_imagenet": 224}.get(name, 32)
        assert net(torch.zeros(2, 1, side, side)).shape == (2, 7)


def test_a_training_form_has_the_same_convolutions_under_the_same_names() -> None:
    bare, training = build("all_cnn_c"), build("all_cnn_c", training=Training(True, 0.2, 0.5))
    convs = {name for name, module in training.named_children() if isinstance(module, nn.Conv2d)}
    assert convs == {name for name, module in bare.named_children() if isinstance(module, nn.Conv2d)}
    shares = [module.p for module in training if isinstance(module, nn.Dropout)]
    assert shares == [0.2, 0.5, 0.5]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no reference model 'all_cnnc'; try all_cnn_c"):
        build("all_cnnc")


def test_all_cnn_c_after_surgery_is_a_network_of_its_own() -> None:
    """With the weights of All-CNN-C it computes what `strides_to_pools` makes of that one, down to the gradient."""
    torch.manual_seed(0)
    plain = build("all_cnn_c").double()
    pooled = build("all_cnn_c_pooled").double()
    pooled.load_state_dict(plain.state_dict())
    gradients = []
    for net in (pooled, attribkit.strides_to_pools(plain)):
        x = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = net(x)
        gradients.append((out.detach(), torch.autograd.grad(out[:, 3].sum(), x)[0]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
