"""Tokens and their places among the patches: measured, whatever the order, and none where there is no grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from oracles import state_digest
from torch import Tensor, nn
from torch.nn import functional as F

import attribkit

WIDTH, SIDE = 8, 4


class Attention(nn.Module):
    """Written out; `kind` says how."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.qkv = kind, nn.Linear(WIDTH, 3 * WIDTH)
        self.torchs = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.kind == "by torch":
            return F.scaled_dot_product_attention(q, k, v)
        if self.kind == "a module":
            mixed: Tensor = self.torchs(q, k, v)[0]
            return mixed
        return (q @ k.mT).softmax(-1) @ v


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels, in an order; other tokens before or behind them; blocks with a ReLU."""

    def __init__(
        self, kind: str = "by hand", order: Callable[[Tensor], Tensor] = lambda x: x, before: int = 0, behind: int = 0
    ) -> None:
        super().__init__()
        self.embed, self.order = nn.Conv2d(3, WIDTH, SIDE, SIDE), order
        self.before, self.behind = (nn.Parameter(torch.randn(1, n, WIDTH)) for n in (before, behind))
        self.attention, self.norm, self.last = Attention(kind), nn.LayerNorm(WIDTH), nn.Identity()
        self.up, self.down, self.head = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.order(self.embed(x)).flatten(2).mT
        x = torch.cat([self.before.expand(len(x), -1, -1), x, self.behind.expand(len(x), -1, -1)], 1)
        for _ in range(2):
            x = x + self.attention(self.norm(x))
            x = x + self.down(F.relu(self.up(self.norm(x))))
        return self.head(self.last(x).mean(1))


def images(rows: int = 3, columns: int = 5) -> Tensor:
    return torch.randn(2, 3, SIDE * rows, SIDE * columns, generator=torch.Generator().manual_seed(0))


def made(model: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return model(*args, **options).eval()


def unit(model: nn.Module, token: int, x: Tensor | None = None, layer: str = "last") -> attribkit.Unit:
    return attribkit.explain(model, images() if x is None else x, layer=layer, channel=1, at=(token,)).units[1]


@pytest.mark.parametrize("kind", ["by hand", "by torch", "a module"])
@pytest.mark.parametrize(("before", "behind"), [(0, 0), (1, 0), (0, 2), (3, 1)])
def test_a_token_has_the_place_of_its_patch(kind: str, before: int, behind: int) -> None:
    model = made(Transformer, kind, before=before, behind=behind)
    state = state_digest(model)
    for token in range(before + 15 + behind):
        expected = divmod(token - before, 5) if before <= token < before + 15 else None
        assert unit(model, token).place == expected
    assert state_digest(model) == state


def test_columns_first() -> None:
    model = made(Transformer, order=lambda x: x.mT)
    assert [unit(model, token).place for token in (0, 1, 3)] == [(0, 0), (1, 0), (0, 1)]


def test_a_shuffled_order() -> None:
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    model = made(Transformer, order=lambda x: x.flatten(2)[..., order])
    assert [unit(model, token).place for token in range(15)] == [divmod(n, 5) for n in order.tolist()]


def test_a_place_is_an_address() -> None:
    model, x = made(Transformer, before=1), images()
    for place, token in (((0, 0), 1), ((2, 3), 14), ((-1, -2), 14)):
        by_place = attribkit.explain(model, x, layer="last", channel=1, at=place)
        by_number = attribkit.explain(model, x, layer="last", channel=1, at=(token,))
        assert by_place.units == by_number.units
        assert torch.equal(by_place.values, by_number.values)
    with pytest.raises(attribkit.AttribkitError, match=r"no position \(3, 0\) in the patches' grid of 3x5"):
        attribkit.explain(model, x, layer="last", channel=1, at=(3, 0))
    with pytest.raises(attribkit.AttribkitError, match=r"no position \(0, 0, 0\)"):
        attribkit.explain(model, x, layer="last", channel=1, at=(0, 0, 0))


class Queries(Transformer):
    """As many queries as there are patches, which look at them: none stands for a patch."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 15, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.embed(x)).flatten(2).mT
        return self.head(self.last(self.queries + F.scaled_dot_product_attention(self.queries, tokens, tokens)).mean(1))


class Mixer(Transformer):
    """Tokens that a linear layer mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(15, 15)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.embed(x)).flatten(2)
        return self.head(self.last((tokens + self.mix(tokens)).mT).mean(1))


class Neighbours(Transformer):
    """Two tokens in one: half of each is its neighbour's."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.embed(x)).flatten(2).mT
        return self.head(self.last(tokens + tokens.roll(1, 1)).mean(1))


class Overlapping(Transformer):
    """Patches that share pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, SIDE + 2, SIDE, 1)


class Lines(nn.Module):
    """Rows of the image as tokens: no grid."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.head = nn.Identity(), nn.Linear(60, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(F.relu(x).movedim(1, 2).flatten(2)).mean(1))


@pytest.mark.parametrize("model", [Queries, Mixer, Neighbours, Overlapping, Lines])
def test_where_there_is_no_grid_there_is_no_place(model: Callable[..., nn.Module]) -> None:
    net = made(model)
    assert unit(net, 7).place is None
    with pytest.raises(attribkit.AttribkitError, match=r"no position \(1, 2\) in a map of 1"):
        attribkit.explain(net, images(), layer="last", channel=1, at=(1, 2))


def test_units_of_maps_and_classes_have_none_and_none_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from attribkit.explaining import nets

    monkeypatch.delattr(nets, "places")
    model = made(Transformer)
    assert attribkit.explain(model, images(), layer="embed", channel=1, at="all").units[0].place is None
    assert attribkit.explain(model, images(), layer="embed", channel=1, at=(1, 2)).units[0].place is None
    assert attribkit.explain(model, images()).units[0].place is None


def test_another_size_of_image_has_other_places() -> None:
    model = made(Transformer)
    assert unit(model, 7).place == (1, 2)
    assert unit(model, 7, images(4, 3)).place == (2, 1)


def test_a_real_transformer() -> None:
    """timm's, with a token for the class."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), num_classes=5, depth=3).eval()
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    def place(token: int) -> object:
        found = attribkit.explain(model, x, layer="blocks.2", channel=3, at=(token,), activations="all")
        return found.units[0].place

    assert [place(token) for token in (0, 1, 6, 7, 24)] == [None, (0, 0), (0, 5), (1, 0), (3, 5)]


def test_it_is_kept_with_the_result(tmp_path: Any) -> None:
    result = attribkit.explain(made(Transformer), images(), layer="last", channel=1, at=(7,))
    result.save(tmp_path / "map.npz")
    assert attribkit.Attribution.load(tmp_path / "map.npz").units[0].place == (1, 2)
    assert "last[1]@7 (row 1, column 2)=" in str(result)
