"""Batch norms are folded as promised, or stay with a reason; the original stays untouched."""

import copy
import warnings

import pytest
import timm
import torch
import torchvision
from structures import assert_same, digest, noise, seeded, vgg11
from timm.layers import BatchNormAct2d, Conv2dSame, FrozenBatchNormAct2d, StdConv2d
from torch import nn

from attribkit import fold_batch_norm, rewrite


def folded_quietly(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fold_batch_norm(model)


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def assert_folded(model, signal, left=0, tolerance=1e-5):
    before = digest(model)
    changed = fold_batch_norm(model)
    assert_same(digest(model), before)
    assert len(norms(changed)) == left
    expected = copy.deepcopy(model).eval()(signal)
    assert not changed.training
    assert (changed(signal) - expected).norm() <= tolerance * expected.norm()
    return changed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "make",
    [
        torchvision.models.resnet18,
        lambda: vgg11(batch_norm=True),
        torchvision.models.mobilenet_v2,
        lambda: timm.create_model("test_resnet"),
        lambda: timm.create_model("test_efficientnet"),
        lambda: timm.create_model("tf_efficientnet_lite0"),
        lambda: timm.create_model("regnetx_002"),
    ],
    ids=["resnet18", "vgg11_bn", "mobilenet_v2", "test_resnet", "test_efficientnet", "tf_lite0", "regnet"],
)
def test_folded_models_compute_the_same(make, dtype):
    """No batch norm is left, and the output agrees to rounding."""
    model = seeded(make).to(dtype).train()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_folded(model, noise(2, 3, 64, 64).to(dtype), tolerance=tolerance)


def test_the_structure_of_the_model_stays():
    model = torchvision.models.resnet18()
    changed = folded_quietly(model)
    assert type(changed) is type(model)
    assert [name for name, _ in changed.named_modules()] == [name for name, _ in model.named_modules()]
    assert type(changed.layer1[0].bn1) is nn.Identity
    assert changed.conv1.bias.requires_grad


def test_what_a_norm_does_after_normalising_stays():
    """timm's BatchNormAct2d drops and activates inside the same module, and keeps those names."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, drop_layer=nn.Dropout)))
    changed = assert_folded(model, noise(2, 3, 8, 8))
    assert [name for name, _ in changed[1].named_children()] == ["drop", "act"]
    assert not changed[1].drop.training


def test_a_frozen_norm_is_folded_like_any_other():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNormAct2d(4)))
    assert isinstance(folded_quietly(model)[1], nn.Sequential)
    assert_folded(model, noise(2, 3, 8, 8))
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), torchvision.ops.FrozenBatchNorm2d(4)))
    assert isinstance(assert_folded(model, noise(2, 3, 8, 8))[1], nn.Identity)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (lambda: [nn.Linear(5, 4), nn.BatchNorm1d(4)], (3, 5)),
        (lambda: [nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, affine=False)], (3, 5)),
        (lambda: [nn.Conv1d(5, 4, 3, bias=False), nn.BatchNorm1d(4)], (3, 5, 9)),
        (lambda: [nn.Conv3d(2, 4, 3, groups=2), nn.BatchNorm3d(4)], (1, 2, 5, 5, 5)),
        (lambda: [nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)], (1, 3, 5, 5)),
        (lambda: [nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4)], (1, 3, 5, 5)),
        (lambda: [Conv2dSame(3, 4, 3, stride=2), nn.BatchNorm2d(4)], (1, 3, 6, 7)),
    ],
)
def test_every_kind_of_layer_with_a_linear_weight_is_folded(layers, shape):
    assert_folded(seeded(lambda: nn.Sequential(*layers())), noise(*shape), tolerance=1e-12)


class Awkward(nn.Module):
    """One norm that can be folded, and one for each reason why not."""

    def __init__(self):
        super().__init__()
        self.conv, self.good = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.early = nn.BatchNorm2d(4)
        self.branching, self.branched = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.shared_conv, self.after_shared = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.before_shared, self.shared_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.tied, self.tying, self.after_tied = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.tying.weight = self.tied.weight
        self.read, self.after_read = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.std, self.after_std = StdConv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.unkept_conv, self.unkept = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.hooked, self.after_hooked = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.hooked.register_forward_hook(lambda _module, _inputs, out: out + 1)
        self.listed_conv, self.listed = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.order = (self.listed,)
        self.never = nn.BatchNorm2d(4)
        self.grouped, self.after_grouped = nn.ConvTranspose2d(4, 4, 1, groups=4), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.early(self.good(self.conv(x)))
        y = self.branching(x)
        x = self.branched(y) + y
        x = self.shared_conv(self.after_shared(self.shared_conv(x)))
        x = self.shared_norm(self.before_shared(self.shared_norm(x)))
        x = self.after_tied(self.tied(self.tying(x)))
        x = self.after_read(self.read(x)) * self.read.weight.mean()
        x = self.unkept(self.unkept_conv(self.after_std(self.std(x))))
        x = self.after_hooked(self.hooked(x))
        x = self.order[0](self.listed_conv(x))
        return self.after_grouped(self.grouped(x))


LEFT = {
    "early": "follows no convolution or linear layer directly",
    "branched": "something else reads the output",
    "after_shared": "the layer before is called 2 times",
    "shared_norm": "it is called 2 times",
    "after_tied": "the layer before shares its weight",
    "after_read": "the layer before shares its weight",
    "after_std": "do not add up",
    "unkept": "keeps no running statistics",
    "after_hooked": "the layer before has hooks",
    "listed": "it is also held in a plain attribute",
    "never": "it is called 0 times",
    "after_grouped": "fusing it with the layer before failed",
}


def test_what_cannot_be_folded_stays_and_is_named_with_the_reason():
    model = seeded(Awkward)
    with pytest.warns(UserWarning, match="left 12 as they are") as caught:
        changed = fold_batch_norm(model)
    groups = str(caught[0].message).split(": ", 1)[1].split("; ")
    told = {name: group.split(" (")[1] for group in groups for name in group.split(" (")[0].split(", ")}
    assert told.keys() == LEFT.keys()
    assert all(LEFT[name] in told[name] for name in LEFT)
    assert sorted(norms(changed)) == sorted(LEFT)
    signal = noise(2, 3, 4, 4)
    assert torch.allclose(changed(signal), model(signal), rtol=1e-10, atol=1e-12)


class Untraceable(nn.Module):
    """Looks at values, which no tracing can follow."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


class Branching(nn.Module):
    """A part that cannot be traced among parts that can be."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.inner = Untraceable()

    def forward(self, x, mask=None, scale=2):
        x = self.inner(self.norm(self.conv(x)))
        if mask is not None:
            x = self.norm(x)
        return nn.ReLU()(x) * scale


def test_parts_that_cannot_be_traced_are_left_and_the_rest_is_folded():
    """Arguments with defaults count as left out: what a mask would bring about is not followed."""
    torch.manual_seed(0)
    model = Branching().double().eval()
    with pytest.warns(UserWarning, match=r"left 1 as they are: inner\.norm \(it belongs to a part"):
        changed = fold_batch_norm(model)
    assert type(changed.norm) is nn.Identity
    for sign in (1, -1):
        signal = sign * noise(1, 3, 8, 8)
        assert torch.allclose(changed(signal), model(signal), rtol=1e-10, atol=1e-12)


def test_one_part_that_cannot_be_traced_does_not_spoil_what_is_around_it():
    """What fails two levels down costs that part alone, not the module that it lies in."""
    with pytest.warns(UserWarning, match=r"left 1 as they are: 0\.inner\.norm \("):
        changed = fold_batch_norm(nn.Sequential(Branching(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    assert type(changed[0].norm) is nn.Identity
    assert type(changed[2]) is nn.Identity


class Unused(nn.BatchNorm2d):
    """Owns an activation that it does not apply."""

    def __init__(self, features):
        super().__init__(features)
        self.act = nn.ReLU()


def test_a_norm_is_not_replaced_by_parts_that_it_does_not_use():
    with pytest.raises(ValueError, match="do not add up"):
        fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), Unused(4)))


def test_a_rectifier_that_lets_nothing_through_does_not_hide_a_wrong_fold():
    """A standardised weight does not scale; behind a closed ReLU noise alone would not show it."""
    model = nn.Sequential(StdConv2d(3, 4, 1), BatchNormAct2d(4)).eval()
    nn.init.constant_(model[1].bias.detach(), -1e6)
    nn.init.constant_(model[1].running_var, 4)
    with pytest.raises(ValueError, match="do not add up"):
        fold_batch_norm(model)


def test_a_model_that_cannot_be_traced_is_said_to_be():
    with pytest.raises(ValueError, match=r"Untraceable cannot be traced with torch\.fx"):
        fold_batch_norm(Untraceable())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), "the model has none"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)), r"0 \(it follows no convolution"),
    ],
)
def test_nothing_to_fold_is_an_error(model, why):
    with pytest.raises(ValueError, match=f"no batch norm could be folded: .*{why}"):
        fold_batch_norm(model)


def test_pre_activation_networks_are_folded_where_they_can_be():
    """In densenet half of the norms follow a concatenation."""
    model = seeded(timm.create_model, "densenet121")
    with pytest.warns(UserWarning, match="more .it follows no convolution"):
        changed = assert_folded(model, noise(1, 3, 64, 64), left=62, tolerance=1e-12)
    assert len(norms(model)) == 121
    assert not [name for name in norms(changed) if name.endswith("norm2")]


def test_tensors_made_while_tracing_leave_no_trace():
    class Shifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x)) + torch.ones(3, 1, 1)

    assert sorted(vars(fold_batch_norm(Shifting()))) == sorted(vars(Shifting()))


def test_a_rewritten_net_is_not_taken_apart():
    with pytest.raises(TypeError, match="then rewrite it"):
        fold_batch_norm(rewrite(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())))
