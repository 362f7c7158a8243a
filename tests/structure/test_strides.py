"""Strides become pools as promised, or are refused with a reason; the original stays untouched."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import assert_same, digest, noise, vgg11
from timm.layers import Conv2dSame, ScaledStdConv2dSame, StdConv2d
from torch import nn

from attribkit import rewrite, strides_to_pools
from attribkit.structure.strides import PooledConv


def pooled_by_hand(full, stride):
    """Max over each window of size `stride`, the last ones cut short at the border, in plain loops."""
    batch, channels, height, width = full.shape
    rows, columns = -(-height // stride[0]), -(-width // stride[1])
    out = torch.empty(batch, channels, rows, columns, dtype=full.dtype)
    for y in range(rows):
        for x in range(columns):
            top, left = y * stride[0], x * stride[1]
            out[..., y, x] = full[..., top : top + stride[0], left : left + stride[1]].amax((-1, -2))
    return out


class Net(nn.Module):
    """Reads of its convolution what many models read."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, stride=(1, 3), padding=1)
        self.conv3 = nn.Conv2d(4, 4, 3, padding="same")
        self.again = self.conv1

    def forward(self, x):
        assert x.shape[1] == self.conv1.in_channels
        return self.conv3(self.conv2(self.again(x.to(self.conv1.weight.dtype))).relu())


@settings(max_examples=150, deadline=None)
@given(
    kernel=st.integers(1, 5),
    stride=st.tuples(st.integers(1, 4), st.integers(2, 5)),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_sizes_stay_and_values_are_the_maximum_of_each_window(kernel, stride, padding, dilation, size):
    """floor(m / s) + 1 = ceil((m + 1) / s), held against loops, at sizes down to the smallest that run."""
    reach = dilation * (kernel - 1) + 1
    size = tuple(max(side, reach - 2 * padding) for side in size)
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups=2).double()
    signal = noise(1, 2, *size)
    expected = pooled_by_hand(F.conv2d(signal, conv.weight, conv.bias, 1, padding, dilation, 2), stride)
    changed = strides_to_pools(conv)(signal)
    assert torch.equal(changed, expected)
    assert changed.shape == conv(signal).shape
    assert (changed >= conv(signal) - 1e-12).all()


@pytest.mark.parametrize(("conv", "size"), [(nn.Conv1d, (17,)), (nn.Conv2d, (9, 12)), (nn.Conv3d, (5, 8, 7))])
@pytest.mark.parametrize("options", [{}, {"padding": "valid"}, {"padding": 1, "padding_mode": "reflect"}])
def test_it_holds_in_one_two_and_three_dimensions(conv, size, options):
    layer = conv(2, 3, 3, stride=2, **options).double()
    signal = noise(2, 2, *size)
    changed = strides_to_pools(nn.Sequential(layer))(signal)
    assert changed.shape == layer(signal).shape
    assert (changed >= layer(signal) - 1e-12).all()


def test_only_convolutions_with_a_stride_are_changed_and_the_original_is_not():
    model = Net().train()
    before = digest(model)
    changed = strides_to_pools(model)
    assert_same(digest(model), before)
    assert isinstance(changed.conv1, PooledConv)
    assert isinstance(changed.conv2, PooledConv)
    assert type(changed.conv3) is nn.Conv2d
    assert changed.conv2.pool.kernel_size == (1, 3)
    assert changed.training
    assert changed.conv1.training
    assert changed(noise(1, 3, 9, 9)).shape == model(noise(1, 3, 9, 9).float()).shape


def test_a_convolution_of_several_names_is_replaced_under_all_by_one_object():
    changed = strides_to_pools(Net(), layers=["again"])
    assert changed.again is changed.conv1
    assert isinstance(changed.conv1, PooledConv)
    assert type(changed.conv2) is nn.Conv2d


def test_what_models_read_of_a_convolution_can_still_be_read():
    conv = strides_to_pools(Net()).conv1
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride) == (3, 4, (3, 3), (2, 2))
    assert conv.weight is conv.conv.weight
    assert conv.bias is conv.conv.bias
    with pytest.raises(AttributeError, match="nonsense"):
        _ = conv.nonsense


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_changed_model_can_be_copied_pickled_and_changed_no_further(again):
    changed = strides_to_pools(Net())
    signal = noise(1, 3, 8, 8)
    assert torch.equal(again(changed)(signal), changed(signal))
    with pytest.raises(ValueError, match="nothing to change"):
        strides_to_pools(changed)


def test_a_changed_model_can_be_compiled():
    changed = strides_to_pools(Net())
    compiled = torch.compile(changed, backend="eager", fullgraph=True)
    assert torch.equal(compiled(noise(1, 3, 8, 8)), changed(noise(1, 3, 8, 8)))


def test_wrappers_are_taken_off():
    assert type(strides_to_pools(nn.DataParallel(Net()))) is Net
    assert type(strides_to_pools(torch.compile(Net()))) is Net
    with pytest.raises(TypeError, match="ScriptModule"):
        strides_to_pools(torch.jit.trace(nn.Conv2d(3, 3, 2, stride=2), torch.zeros(1, 3, 8, 8)))


@pytest.mark.parametrize("size", range(5, 24))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (2, 2), (3, 3), (7, 4), (1, 2)])
@pytest.mark.parametrize("kind", [Conv2dSame, StdConv2d, ScaledStdConv2dSame])
def test_convolutions_with_a_forward_of_their_own_keep_size_and_windows(kind, size, kernel, stride):
    """timm's "same" padding depends on size and stride; the strided value is still in its window."""
    torch.manual_seed(0)
    layer = kind(2, 3, kernel, stride=stride).double()
    signal = noise(1, 2, size, max(size - 1, 7))
    changed = strides_to_pools(nn.Sequential(layer))(signal)
    assert changed.shape == layer(signal).shape
    assert (changed >= layer(signal) - 1e-10).all()


class FixedStride(nn.Conv2d):
    """Says stride 2 and has it written into its forward as well."""

    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, 2)


class Picky(nn.Conv2d):
    def forward(self, x):
        raise RuntimeError("only images of cats")


def test_a_convolution_that_pays_no_heed_to_its_stride_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'0' \(FixedStride\).*outputs at stride 1 do not contain"):
        strides_to_pools(nn.Sequential(FixedStride(2, 2, 3, stride=2)))
    with pytest.raises(ValueError, match=r"'0' \(Picky\).*only images of cats"):
        strides_to_pools(nn.Sequential(Picky(2, 2, 3, stride=2)))
    with pytest.raises(ValueError, match="not initialised yet"):
        strides_to_pools(nn.Sequential(nn.LazyConv2d(2, 3, stride=2)))


def test_a_convolution_that_is_held_in_a_list_too_is_refused():
    """The list would go on using the old one."""
    model = Net()
    model.order = [model.conv1, model.conv2]
    with pytest.raises(ValueError, match="plain attribute"):
        strides_to_pools(model)


def test_unknown_names_are_told_the_nearest():
    model = torchvision.models.resnet18()
    with pytest.raises(ValueError, match=r"no layer 'layer2\.0\.conv'; .*'layer2\.0\.conv1'"):
        strides_to_pools(model, layers=["layer2.0.conv"])
    with pytest.raises(ValueError, match=r"'layer1\.0\.conv1' is no convolution with a stride but Conv2d\(64"):
        strides_to_pools(model, layers=["layer1.0.conv1"])
    with pytest.raises(ValueError, match="'layer2' is no convolution with a stride but Sequential"):
        strides_to_pools(model, layers="layer2")


def test_a_model_without_strides_is_said_to_have_none():
    with pytest.raises(ValueError, match="no convolution with a stride found"):
        strides_to_pools(vgg11(batch_norm=False))
    with pytest.raises(ValueError, match="no convolution with a stride named"):
        strides_to_pools(Net(), layers=[])
    with pytest.raises(ValueError, match="none strides"):
        strides_to_pools(nn.Sequential(nn.Conv2d(1, 1, 1)), layers=["0"])


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "tf_efficientnet_lite0"])
def test_every_layer_of_a_real_model_keeps_its_size(name):
    model = timm.create_model(name).eval()
    shapes = [[], []]
    for seen, net in zip(shapes, (model, strides_to_pools(model)), strict=True):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.shape))
        with torch.no_grad():
            net(torch.zeros(1, 3, 75, 90))
    assert shapes[0] == shapes[1]
    assert shapes[0]


def test_a_rewritten_net_is_not_taken_apart():
    with pytest.raises(TypeError, match="then rewrite it"):
        strides_to_pools(rewrite(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())))
