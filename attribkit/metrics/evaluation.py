"""Metrics for attribution maps, of whichever tool they come from. docs/metrics.md says what each means and cannot tell.

Maps and images are N x C x H x W; a map may have another number of colours than its image (one, say). Results have
one value an image, so that methods can be compared image by image. NaN stands for *undefined*: a map that is zero
everywhere has no direction, a constant one no ranks. Count them (`values.isnan().sum()`) before you average the others
with `nanmean`. NaN in what is given is an error.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from attribkit.errors import BadType, BadValue

Respond = Callable[[Tensor], Tensor]
"""A unit's response: a batch of images goes in, one number an image comes out."""

Fill = Literal["zero", "blur"] | Tensor
"""What takes a pixel's place: zero (the mean colour of normalised images), the blurred image, or one's own images."""


def magnitude(maps: Tensor) -> Tensor:
    """How strong a map is at each pixel: its absolute value, summed over colours (N x 1 x H x W)."""
    return _checked(maps).abs().sum(1, keepdim=True)


# ----------------------------------------------------------------------------------------------- maps to compare with


def sobel_maps(images: Tensor) -> Tensor:
    """The edges of the grey images, of which no network was asked (N x 1 x H x W)."""
    grey = F.pad(_checked(images, "images").mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slope = grey.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    across, down = F.conv2d(grey, torch.stack([slope, slope.T])[:, None]).split(1, dim=1)
    return torch.hypot(across, down)


def centred_gaussian_maps(images: Tensor, width: float = 0.25) -> Tensor:
    """A hill in the middle, where photographers put things; `width` is its sigma as a share of each side."""
    n, _, *sides = _checked(images, "images").shape
    down, across = (torch.linspace(-0.5, 0.5, s, dtype=torch.float64) if s > 1 else torch.zeros(1) for s in sides)
    hill = torch.exp(-(down[:, None] ** 2 + across[None] ** 2) / (2 * width**2))
    return hill.to(images.device).expand(n, 1, *sides)


def random_maps(images: Tensor, seed: int = 0) -> Tensor:
    """Uniform noise, another for each image (N x 1 x H x W)."""
    n, _, *sides = _checked(images, "images").shape
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, *sides, generator=generator, dtype=torch.float64).to(images.device)


# ---------------------------------------------------------------------------------------------------- how alike two are


def cosine_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """The cosine between each map and its other one, signs and colours included; undefined where either is zero.

    With the maps of two logits this is class sensitivity: a method that looks at the class has a low one.
    """
    pairs = _checked_pair(maps, others)
    one, other = (_directions(each.flatten(1)) for each in pairs)
    return (one * other).sum(1)


def rank_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation between the magnitudes of two maps; undefined where either's is constant.

    Magnitudes that differ by less than a millionth of the largest share a rank: below that is rounding.
    """
    one, other = (magnitude(each).flatten(1) for each in _checked_pair(maps, others))
    return _spearman(one, other)


def structural_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) between the magnitudes of two maps, each scaled to a maximum of 1; undefined for zero.

    Gaussian windows of 11 x 11 with sigma 1.5, those that fit into the map, with the paper's constants.
    """
    x, y = (magnitude(each) for each in _checked_pair(maps, others))
    if min(x.shape[2:]) < 11:
        raise BadValue(f"SSIM looks through windows of 11 x 11, which maps of {_size(x)} are too small for")
    x, y = x / x.amax((2, 3), keepdim=True), y / y.amax((2, 3), keepdim=True)
    mean_x, mean_y, xx, yy, xy = (_blurred(each, 1.5, 5)[..., 5:-5, 5:-5] for each in (x, y, x * x, y * y, x * y))
    light = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    shared = (2 * (xy - mean_x * mean_y) + 9e-4) / (xx - mean_x**2 + yy - mean_y**2 + 9e-4)
    return (light * shared).mean((1, 2, 3))


# ------------------------------------------------------------------------------------------------ 1. image dependence


def image_dependence(maps: Tensor) -> Tensor:
    """How far each map differs from those of other images: 1 minus its mean cosine with them.

    Give maps of one unit at one position from at least two images. 0: the same map for every image, up to a positive
    scale. A map that is zero everywhere is undefined and left out of the others' means.
    """
    maps = _checked(maps)
    if len(maps) < 2:
        raise BadValue("image dependence compares the maps of several images; there is one")
    return 1 - _mean_cosine_with_others(maps.flatten(1))


# ------------------------------------------------------------------------------------------------- 2. source retrieval


def found_sources(maps: Tensor, images: Tensor, sources: Tensor | None = None) -> Tensor:
    """Whether each map fits the image it comes from better than all other images: one bool a map; chance is 1/N.

    Map i comes from image i, or from image `sources[i]`. A tie does not count as found: a constant map, which fits no
    image, is never right, and neither is the map of an image that occurs twice.

    The correlation keeps signs within a map. Where a map has none, give `magnitude(maps)` and `sobel_maps(images)`.
    """
    fits = source_correlations(maps, images).nan_to_num(-1)
    if sources is None and len(maps) != len(images):
        raise BadValue(f"{len(maps)} maps and {len(images)} images: say in sources= which image each comes from")
    own = torch.arange(len(maps)) if sources is None else torch.as_tensor(sources)
    if own.shape != (len(maps),) or own.dtype not in (torch.int32, torch.int64):
        raise BadValue(f"sources are {len(maps)} numbers of images, one a map, not {own.dtype} of {tuple(own.shape)}")
    if bool(((own < 0) | (own >= len(images))).any()):
        raise BadValue(f"sources are numbers of images, 0 to {len(images) - 1}")
    own = own.to(fits.device).long()[:, None]
    rival = fits.scatter(1, own, -1).amax(1)
    # A tie may be off by the rounding of a sum over all pixels.
    return fits.gather(1, own)[:, 0] > rival.clamp(min=0) + 1e-9


def source_correlations(maps: Tensor, images: Tensor) -> Tensor:
    """How well each map fits each image, from 0 to 1 (maps x images); NaN where a map or an image has no detail.

    The map summed over colours and the grey image, both less their 5 x 5 box mean, by the absolute value of their
    normalised correlation. Without the box mean, every map with a bright middle would fit every such image.
    """
    if maps.shape[-2:] != images.shape[-2:]:
        raise BadValue(f"maps of {_size(maps)} do not fit images of {_size(images)}")
    return (_directions(_detail(maps, "maps")) @ _directions(_detail(images, "images")).T).abs()


def _detail(pictures: Tensor, name: str) -> Tensor:
    """Pictures summed over colours, less their box mean, as rows; exactly zero where only rounding is left."""
    plane = _checked(pictures, name).sum(1, keepdim=True)
    detail = plane - F.avg_pool2d(plane, 5, stride=1, padding=2, count_include_pad=False)
    least = max(4 * torch.finfo(pictures.dtype).eps, 1e-13)  # of the picture's largest value
    noise = least * pictures.detach().double().abs().flatten(1).amax(1, keepdim=True)
    rows = detail.flatten(1)
    return torch.where(rows.abs().amax(1, keepdim=True) > noise, rows, 0)


# ------------------------------------------------------------------------------------------ 3. insertion and deletion


def insertion(
    respond: Respond | Sequence[Respond],
    images: Tensor,
    maps: Tensor,
    *,
    fill: Fill = "zero",
    steps: int = 32,
    seed: int = 0,
) -> Tensor:
    """The area under the unit's response while pixels are put in, strongest first: high where the map is right.

    For the arguments, see `response_curves`.
    """
    curves = response_curves(respond, images, maps, insert=True, fill=fill, steps=steps, seed=seed)
    return torch.trapezoid(curves, _shares(images, steps).to(curves))


def deletion(
    respond: Respond | Sequence[Respond],
    images: Tensor,
    maps: Tensor,
    *,
    fill: Fill = "zero",
    steps: int = 32,
    seed: int = 0,
) -> Tensor:
    """The area under the unit's response while pixels are taken out, strongest first: low where the map is right.

    For the arguments, see `response_curves`.
    """
    curves = response_curves(respond, images, maps, insert=False, fill=fill, steps=steps, seed=seed)
    return torch.trapezoid(curves, _shares(images, steps).to(curves))


def response_curves(
    respond: Respond | Sequence[Respond],
    images: Tensor,
    maps: Tensor,
    *,
    insert: bool,
    fill: Fill = "zero",
    steps: int = 32,
    seed: int = 0,
) -> Tensor:
    """The unit's response after each step, as a share of that to the full image (N x steps + 1).

    `respond` gives the unit's response to a batch of images; give a list of such functions, one an image, where the
    images have different units. Pixels go in (`insert`), or out, in the order of the map's magnitude, equally many at
    each step, and `fill` is there in their stead. Pixels of equal magnitude are in random order, drawn from `seed`:
    a constant map is a random one. The steps of an image are one batch. Undefined where the map is zero
    everywhere, or the response to the full image is not above zero.
    """
    strength = _on_images(magnitude(maps), images)
    counts = (_shares(images, steps) * strength[0].numel()).round().to(images.device)
    curves = []
    for image, filling, plane, ask in zip(
        images, _filling(images, fill), strength, _one_each(respond, images), strict=True
    ):
        first = _places(plane, seed) < counts[:, None, None, None]  # the strongest, one step more in each row
        pictures = torch.where(first == insert, image, filling)
        curve = _asked(ask, pictures)
        full = curve[-1 if insert else 0]
        curves.append(curve / full if full > 0 and bool(plane.any()) else torch.full_like(curve, torch.nan))
    return torch.stack(curves)


def _shares(images: Tensor, steps: int) -> Tensor:
    """Which share of the pixels has changed after each step: whole pixels, as near to equal steps as they come."""
    pixels = images[0, 0].numel()
    if not 1 <= steps <= pixels:
        raise BadValue(f"{pixels} pixels can change in 1 to {pixels} steps, not in {steps}")
    return torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round() / pixels


def _places(plane: Tensor, seed: int) -> Tensor:
    """The place of each pixel when the strongest come first, those of equal strength in random order."""
    shuffled = torch.randperm(plane.numel(), generator=torch.Generator().manual_seed(seed)).to(plane.device)
    order = shuffled[plane.flatten()[shuffled].argsort(descending=True, stable=True)]
    return order.argsort().view_as(plane)


# --------------------------------------------------------------------------------------- 4. agreement with occlusion


def occlusion_drops(
    respond: Respond | Sequence[Respond],
    images: Tensor,
    size: int,
    *,
    stride: int | None = None,
    fill: Fill = "zero",
    batch_size: int = 64,
) -> Tensor:
    """How far the unit's response drops when a square of `size` pixels covers a part of the image (N x rows x columns).

    The square moves by `stride`, half its size unless you say so, and must reach both edges of the image, so that
    every pixel counts. `respond` and `fill` are those of `response_curves`.
    """
    sides, step = _checked(images, "images").shape[2:], max(1, size // 2) if stride is None else stride
    if size < 1 or step < 1 or any(side < size or (side - size) % step for side in sides):
        raise BadValue(f"a square of {size} that moves by {step} does not end at the edges of {_size(images)}")
    down, across = (_windows(side, size, step).to(images.device) for side in sides)
    places = torch.cartesian_prod(torch.arange(len(down)), torch.arange(len(across))).split(batch_size)
    drops = []
    for image, filling, ask in zip(images, _filling(images, fill), _one_each(respond, images), strict=True):
        full = _asked(ask, image[None])
        parts = []
        for rows, columns in (each.T for each in places):
            covered = down[rows][:, None, :, None] & across[columns][:, None, None, :]
            parts.append(full - _asked(ask, torch.where(covered, filling, image)))
        drops.append(torch.cat(parts).view(len(down), len(across)))
    return torch.stack(drops)


def occlusion_agreement(maps: Tensor, drops: Tensor, size: int) -> Tensor:
    """Spearman's rank correlation between a map's mean magnitude in each window and the drop that covering it caused.

    `drops` are those of `occlusion_drops` by a square of `size`. Undefined where either is constant. Drops that differ
    by less than a millionth of the largest share a rank.
    """
    return _agreement(magnitude(maps), drops, size)


def occlusion_ceiling(drops: Tensor, size: int, others: Tensor, other_size: int, images: Tensor) -> Tensor:
    """How well two occlusions of the same images agree: what a map can hope for.

    The drops of the one, best the smaller, are laid on the pixels that it covered (their mean, where windows overlap),
    and then take the place of a map. Unlike a map's they keep their sign.
    """
    sides = (int(images.shape[2]), int(images.shape[3]))
    stride = _strides(drops, size, sides)
    drops = _checked(drops[:, None], "drops")
    each = drops.flatten(2).expand(-1, size * size, -1)
    laid = F.fold(each, sides, size, stride=stride) / F.fold(torch.ones_like(each), sides, size, stride=stride)
    return _agreement(laid, others, other_size)


def _agreement(plane: Tensor, drops: Tensor, size: int) -> Tensor:
    stride = _strides(drops, size, plane.shape[2:])
    if len(plane) != len(drops):
        raise BadValue(f"{len(plane)} maps do not fit the drops of {len(drops)} images")
    return _spearman(F.avg_pool2d(plane, size, stride).flatten(1), _checked(drops[:, None], "drops").flatten(1))


def _windows(side: int, size: int, stride: int) -> Tensor:
    """Which pixels of a side each window covers (windows x pixels)."""
    starts, pixels = torch.arange(0, side - size + 1, stride)[:, None], torch.arange(side)
    return (starts <= pixels) & (pixels < starts + size)


def _strides(drops: Tensor, size: int, sides: Sequence[int]) -> tuple[int, int]:
    """By how much the square moved: as windows end at the edges, their number says it."""
    strides = []
    for count, side in zip(drops.shape[1:], sides, strict=False):
        stride, rest = divmod(side - size, count - 1) if count > 1 else (1, side - size)
        if drops.dim() != 3 or rest or stride < 1:
            what = f"drops of shape {tuple(drops.shape)} do not come from a square of {size}"
            raise BadValue(f"{what} on images of {' x '.join(map(str, sides))}")
        strides.append(stride)
    return strides[0], strides[1]


# ------------------------------------------------------------------------------------------------- 5. the grid game


def mosaics(images: Tensor) -> Tensor:
    """One picture of several, row by row: N x 9 x C x H x W becomes N x C x 3H x 3W (4 give 2 x 2, and so on)."""
    side = math.isqrt(images.shape[1]) if images.dim() == 5 else 0
    if side == 0 or side * side != images.shape[1]:
        raise BadValue(f"a mosaic is made of N x 9 x C x H x W (or 4, 16...), not of shape {tuple(images.shape)}")
    return images.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def grid_scores(maps: Tensor, cells: int | Sequence[int] | Tensor, side: int = 3) -> Tensor:
    """The share of a map's positive part that lies in the right cell of a mosaic; chance is 1 / side**2.

    Cells are numbered row by row from 0; `cells` is one for all maps, or one a map. The map is summed over colours
    before its positive part is taken. Undefined where nothing is positive.
    """
    positive = _checked(maps).sum(1).clamp(min=0)
    if any(length % side for length in positive.shape[1:]):
        raise BadValue(f"maps of {_size(maps)} cannot be cut into {side} x {side} equal cells")
    wanted = torch.as_tensor(cells, device=maps.device)
    if wanted.dtype not in (torch.int32, torch.int64) or wanted.shape not in ((), (len(maps),)):
        raise BadValue(f"cells are whole numbers, one for all or one for each of {len(maps)} maps")
    if bool(((wanted < 0) | (wanted >= side * side)).any()):
        raise BadValue(f"the cells of {side} x {side} are 0 to {side * side - 1}")
    in_cells = positive.unflatten(1, (side, -1)).unflatten(3, (side, -1)).sum((2, 4)).flatten(1)
    return in_cells.gather(1, wanted.long().expand(len(maps))[:, None])[:, 0] / in_cells.sum(1)


# ---------------------------------------------------------------------------------------- 6. what is known to go wrong


def cascade(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a model whose layers are made random from the top down: the last, the last two... (Adebayo et al.).

    Each comes with the name of the layer that it has lost, and is the caller's to keep; the model stays as it is. A
    layer is a convolution or a linear module, with the norms that follow it; the top is what the model's constructor
    made last. Weights are drawn from `seed` by He's rule, biases are zero, norms as new. Parameters of
    other modules stay, and a warning names these.
    """
    work = copy.deepcopy(model)
    for name in _randomise(work, seed):
        yield name, copy.deepcopy(work)


def with_upper_layers_random(model: nn.Module, share: float = 1 / 3, seed: int = 0) -> nn.Module:
    """The copy of `cascade` that has lost the upper `share` of its layers, rounded to whole layers and at least one."""
    if not 0 < share <= 1:
        raise BadValue(f"share is above 0 and at most 1, not {share}")
    work = copy.deepcopy(model)
    count = max(1, round(share * len(_layers(work))))
    for _ in zip(range(count), _randomise(work, seed)):  # noqa: B905  # it stops at the count
        pass
    return work


def _randomise(model: nn.Module, seed: int) -> Iterator[str]:
    """Make one layer after the other random, in place, from the top; gives the name of each once that is done."""
    generator = torch.Generator().manual_seed(seed)
    for name, modules in reversed(_layers(model).items()):
        for module in modules:
            if isinstance(module, _ConvNd | nn.Linear):
                # Drawn here whatever the device, so that a seed means the same everywhere.
                fresh = torch.empty(module.weight.shape)
                nn.init.kaiming_normal_(fresh, nonlinearity="relu", generator=generator)
                module.weight.data.copy_(fresh)
                if module.bias is not None:
                    module.bias.data.zero_()
            else:
                module.reset_parameters()  # type: ignore[operator]
        yield name


def _layers(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Each convolution and linear module by name, with the norms that follow; norms before the first go with it."""
    layers: dict[str, list[nn.Module]] = {}
    pending: list[nn.Module] = []
    kept = []
    for name, module in model.named_modules():
        own = module._parameters
        if isinstance(module, _ConvNd | nn.Linear) and own.get("weight") is not None:
            pending = layers[name] = [*pending, module] if not layers else [module]
        elif isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm | nn.PReLU):
            pending.append(module)
        elif any(parameter is not None for parameter in own.values()):
            kept.append(f"{name or 'the model itself'} ({type(module).__name__})")
    if not layers:
        raise BadValue(f"{type(model).__name__} has no convolution and no linear module to make random")
    if kept:
        warnings.warn(f"these keep their parameters: {', '.join(kept)}", stacklevel=2)
    return layers


def maps_of_random_signals(
    forward: Callable[[Tensor], Tensor], images: Tensor, count: int = 8, seed: int = 0
) -> Tensor:
    """Maps of `count` start signals of Gaussian noise, sent back to each image (N x count x C x H x W).

    `forward` gives the output of a layer, in which the signals start: `lambda x: net.forward_to("conv5", x)` with a
    net of `attribkit.rewrite`, or anything else that autograd goes back through. All images have the same signals.
    """
    if count < 1:
        raise BadValue(f"there are no maps of {count} signals")
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        output = forward(x.clone())  # a clone, since a network may write into its input
    maps = []
    for _ in range(count):
        signal = torch.randn(output.shape[1:], generator=generator).to(output).expand_as(output)
        maps.append(torch.autograd.grad(output, x, signal, retain_graph=True)[0])
    return torch.stack(maps, 1)


def signal_convergence(maps: Tensor) -> Tensor:
    """How alike the maps of different start signals are: their mean pairwise cosine, image by image.

    `maps` are N x signals x C x H x W. 1: the map does not depend on what is asked (Sixt et al. 2020). Maps that are
    zero everywhere are left out; undefined where fewer than two are left.
    """
    if maps.dim() != 5 or maps.shape[1] < 2:
        raise BadValue(f"maps are N x signals x C x H x W, of at least two signals, not of shape {tuple(maps.shape)}")
    rows = _checked(maps.flatten(0, 1)).flatten(1).unflatten(0, maps.shape[:2])
    return _mean_cosine_with_others(rows).nanmean(-1)


# ------------------------------------------------------------------------------------------------- shared by all


def _checked(maps: Tensor, name: str = "maps") -> Tensor:
    """In float64, since 1 minus a cosine and ties are told apart by the last digits; refused unless it makes sense."""
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        kind = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
        raise BadType(f"{name} are a float tensor of N x C x H x W, not {kind}")
    if maps.dim() != 4 or maps.numel() == 0:
        hint = f"; write {name}[:, None] for one colour" if maps.dim() == 3 else ""
        raise BadValue(f"{name} are N x C x H x W, not of shape {tuple(maps.shape)}{hint}")
    wrong = (~maps.detach().isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if wrong:
        raise BadValue(f"{len(wrong)} of {len(maps)} {name} hold NaN or infinity; the first is number {wrong[0]}")
    return maps.detach().double()


def _checked_pair(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    if maps.shape != others.shape:
        raise BadValue(f"maps of shape {tuple(maps.shape)} do not fit others of shape {tuple(others.shape)}")
    return _checked(maps), _checked(others, "others")


def _on_images(maps: Tensor, images: Tensor) -> Tensor:
    """Maps of which each has its image."""
    _checked(images, "images")
    if len(maps) != len(images) or maps.shape[2:] != images.shape[2:]:
        raise BadValue(f"{len(maps)} maps of {_size(maps)} do not fit {len(images)} images of {_size(images)}")
    return maps.to(images.device)


def _size(pictures: Tensor) -> str:
    return " x ".join(str(side) for side in pictures.shape[-2:])


def _directions(rows: Tensor) -> Tensor:
    """Rows of length 1; 0 / 0, which is NaN, where a row is zero."""
    rows = rows / rows.abs().amax(-1, keepdim=True)  # so that no square is too large or too small for its type
    return rows / rows.norm(dim=-1, keepdim=True)


def _mean_cosine_with_others(rows: Tensor) -> Tensor:
    """For each row its mean cosine with the other rows, but for those that have none."""
    directions = _directions(rows)
    cosines = directions @ directions.mT
    cosines.diagonal(dim1=-2, dim2=-1).fill_(torch.nan)
    return cosines.nanmean(-1)


def _spearman(one: Tensor, other: Tensor) -> Tensor:
    """Row by row: the correlation of ranks, ties sharing their mean rank. NaN where all of a row is one tie."""
    a, b = (_directions(ranks - ranks.mean(1, keepdim=True)) for ranks in (_ranks(one), _ranks(other)))
    return (a * b).sum(1)


def _ranks(rows: Tensor) -> Tensor:
    """Mean ranks. What differs by rounding only would get ranks of its own, hence six decimals of the largest."""
    largest = rows.abs().amax(1, keepdim=True)
    ranks = []
    for row in (rows / largest.where(largest > 0, 1)).round(decimals=6):
        _, place, count = row.unique(return_inverse=True, return_counts=True)
        ranks.append((count.cumsum(0) - (count - 1) / 2)[place])
    return torch.stack(ranks).double()


def _filling(images: Tensor, fill: Fill) -> Tensor:
    """What stands in for pixels, for every image."""
    if isinstance(fill, Tensor):
        if fill.shape != images.shape:
            raise BadValue(f"a fill of shape {tuple(fill.shape)} does not fit images of {tuple(images.shape)}")
        return fill.to(images)
    if fill == "zero":
        return torch.zeros_like(images)
    if fill == "blur":
        sigma = max(images.shape[2:]) / 20
        return _blurred(images, sigma, min(math.ceil(3 * sigma), min(images.shape[2:]) - 1))
    raise BadValue(f"fill is 'zero', 'blur' or a tensor like the images, not {fill!r}")


def _blurred(pictures: Tensor, sigma: float, reach: int) -> Tensor:
    from torchvision.transforms.functional import gaussian_blur

    blurred: Tensor = gaussian_blur(pictures, [2 * reach + 1] * 2, [sigma] * 2)
    return blurred


def _one_each(respond: Respond | Sequence[Respond], images: Tensor) -> Sequence[Respond]:
    if callable(respond):
        return [respond] * len(images)
    if len(respond) != len(images):
        raise BadValue(f"{len(respond)} functions do not fit {len(images)} images: give one, or one an image")
    return respond


def _asked(respond: Respond, pictures: Tensor) -> Tensor:
    """A unit's responses, one a picture."""
    with torch.no_grad():
        values = respond(pictures)
    if values.shape != (len(pictures),):
        raise BadValue(f"respond gave shape {tuple(values.shape)} for {len(pictures)} images, not a number an image")
    if not bool(values.isfinite().all()):
        raise BadValue("respond gave NaN or infinity")
    return values.double()
