"""What the tests of changed structures share: models to change, and whether a model is as it was."""

import torch
import torchvision
from torch import nn


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make, *args, **kwargs):
    """A model in double precision with weights and batch norm statistics far from their defaults."""
    torch.manual_seed(0)
    model = make(*args, **kwargs).double().eval()
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.weight is not None:
                nn.init.uniform_(module.weight.detach(), 0.5, 1.5)
                nn.init.normal_(module.bias.detach(), std=0.2)
    return model


def vgg11(batch_norm):
    """VGG-11 without its classifier, which is most of its weights and neither strides nor normalises."""
    return torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm)


def digest(model):
    """Everything of a model that a copy might spoil."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rest = [(name, type(module), module.training, repr(module)) for name, module in model.named_modules()]
    return state, rest, sorted(vars(model))


def assert_same(one, other):
    assert one[1:] == other[1:]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
