"""A name becomes a model that is ready to be explained."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import attribkit
from attribkit.adapters import loading
from attribkit.adapters.layers import UnknownLayer
from attribkit.adapters.preprocessing import Plain
from attribkit.adapters.source import UnknownModel
from attribkit.adapters.weights import WeightsError
from attribkit.reference_models import architectures, trained
from attribkit.reference_models.normalisation import Normalisation

PICTURE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("all_cnn_c", "reference:all_cnn_c"),
        ("squeezenet1_1", "torchvision:squeezenet1_1"),
        ("test_resnet", "timm:test_resnet"),
        ("test_resnet.r160_in1k", "timm:test_resnet.r160_in1k"),
        ("timm:test_resnet", "timm:test_resnet"),
    ],
)
def test_a_bare_name_is_looked_up_in_the_sources_in_their_order(name: str, full: str) -> None:
    """Ours, torchvision, then timm; a prefix says which."""
    loaded = attribkit.load(name, "none")
    assert loaded.name == full
    assert not loaded.model.training


def test_a_name_that_both_have_is_torchvisions_unless_it_says_timm() -> None:
    """resnet18 is in both."""
    assert type(attribkit.load("resnet18", "none").model) is models.ResNet
    assert type(attribkit.load("timm:resnet18", "none").model) is timm.models.ResNet


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet", "reference:strided_cnn_c"])
def test_no_weights_are_none(name: str) -> None:
    """None is "none", as in torchvision: random weights, and nothing is fetched."""
    torch.manual_seed(0)
    spoken = attribkit.load(name, "none").model.state_dict()
    torch.manual_seed(0)
    unspoken = attribkit.load(name, None).model.state_dict()
    assert spoken.keys() == unspoken.keys()
    assert all(torch.equal(tensor, unspoken[key]) for key, tensor in spoken.items())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnt18", "torchvision:resnet18"),
        ("torchvision:resnet_18", "torchvision:resnet18"),
        ("timm:resnet50.a1", "timm:resnet50.a1_in1k"),
        ("xyzzy", "list_models"),
        ("trochvision:resnet18", "neither a module nor one of the sources"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    """In one line."""
    with pytest.raises(UnknownModel, match=near) as caught:
        attribkit.load(name, "none")
    assert "\n" not in str(caught.value)


def test_a_near_name_of_another_source_is_not_suggested_for_a_prefix() -> None:
    """timm knows no squeezenet."""
    with pytest.raises(UnknownModel) as caught:
        attribkit.load("timm:squeezenet1_1", "none")
    assert "torchvision:" not in str(caught.value)


def test_quantized_models_are_refused_with_the_reason() -> None:
    """They have no gradient; the float model is named."""
    with pytest.raises(UnknownModel, match=r"quantized and has no gradient: load torchvision:resnet18"):
        attribkit.load("torchvision:quantized_resnet18")


def test_list_models_finds_by_pattern_with_and_without_the_source() -> None:
    """Every name that it gives is one that `load` takes."""
    found = attribkit.list_models("resnet18*")
    assert {"torchvision:resnet18", "timm:resnet18", "timm:resnet18.tv_in1k"} <= set(found)
    assert attribkit.list_models("torchvision:resnet1*") == [f"torchvision:resnet{depth}" for depth in (101, 152, 18)]
    assert len(attribkit.list_models()) > 1400


def test_one_source_does_not_import_the_other() -> None:
    """A torchvision model is loaded without timm (timm itself imports torchvision)."""
    code = "import sys, attribkit; attribkit.load('torchvision:squeezenet1_1', 'none'); print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


# Weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_weights_of_a_file_are_in_the_model(name: str, tmp_path: Path) -> None:
    """What was saved is what the model computes with."""
    torch.manual_seed(0)
    saved = attribkit.load(name, "none")
    save_file(saved.model.state_dict(), tmp_path / "w.safetensors")
    loaded = attribkit.load(name, tmp_path / "w.safetensors")
    x = loaded.preprocess(PICTURE)[None]
    assert torch.equal(loaded.model(x), saved.model(x))


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_other_classes_come_without_labels(name: str, tmp_path: Path) -> None:
    """A head of 7 classes is built, filled from a file, and not called by ImageNet's names."""
    seven = attribkit.load(name, "none", classes=7)
    torch.save(seven.model.state_dict(), tmp_path / "seven.pth")
    loaded = attribkit.load(name, tmp_path / "seven.pth", classes=7)
    assert loaded.model(loaded.preprocess(PICTURE)[None]).shape == (1, 7)
    assert loaded.labels == ()
    with pytest.raises(WeightsError, match=r"classes=N"):
        attribkit.load(name, tmp_path / "seven.pth")
    with pytest.raises(WeightsError, match="leave classes= out"):
        attribkit.load(name, classes=7)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing downloaded before."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    def ask(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the hub's client was asked, which tries for most of a minute")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", ask)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr("attribkit.adapters.timm.getproxies", dict)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet", "timm:resnet18.tv_in1k"])
def test_without_network_one_line_says_what_to_pass_instead(name: str) -> None:
    """The file to fetch, `weights=FILE` and `weights="none"`, at once."""
    with pytest.raises(WeightsError, match=r"https://\S+\.(pth|safetensors), or weights='none'") as caught:
        attribkit.load(name)
    assert "weights=FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_weights_that_timm_fetched_before_need_no_network(tmp_path: Path) -> None:
    """They are read from the hub's cache without asking the hub."""
    saved = timm.create_model("test_resnet")
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(saved.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    loaded = attribkit.load("timm:test_resnet")
    assert all(torch.equal(tensor, saved.state_dict()[key]) for key, tensor in loaded.model.state_dict().items())


def test_an_architecture_without_weights_says_so() -> None:
    """There is nothing to fetch for it."""
    with pytest.raises(WeightsError, match="timm has no weights for densenet264d"):
        attribkit.load("timm:densenet264d")


# Pictures in and out ----------------------------------------------------------------------------------------


def test_pictures_are_prepared_as_torchvision_says() -> None:
    """The transform of the default weights, pixel for pixel, from a path, a PIL image and an array."""
    loaded = attribkit.load("torchvision:resnet18", "none")
    expected = models.ResNet18_Weights.DEFAULT.transforms()(Image.fromarray(PICTURE))
    assert torch.equal(loaded.preprocess(PICTURE), expected)
    assert torch.equal(loaded.preprocess(Image.fromarray(PICTURE)), expected)


def test_pictures_are_prepared_as_timm_says(tmp_path: Path) -> None:
    """The transform of the model's data configuration, pixel for pixel."""
    loaded = attribkit.load("timm:test_resnet", "none")
    config = timm.data.resolve_model_data_config(loaded.model)
    expected = timm.data.create_transform(**config, is_training=False)(Image.fromarray(PICTURE))
    Image.fromarray(PICTURE).save(tmp_path / "p.png")
    assert torch.equal(loaded.preprocess(tmp_path / "p.png"), expected)
    assert torch.equal(loaded.preprocess(str(tmp_path / "p.png")), expected)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet"])
def test_unpreprocess_gives_the_picture_that_the_network_saw(name: str) -> None:
    """After resize and crop: equal to resizing and cropping alone."""
    loaded = attribkit.load(name, "none")
    transform = loaded.preprocess.transform(None)
    side = {"torchvision:resnet18": (256, 224), "timm:test_resnet": (168, 160)}[name]
    assert callable(transform)
    resized = Image.fromarray(PICTURE).resize((side[0] * 120 // 90, side[0]), Image.Resampling.BILINEAR)
    left, top = round((resized.width - side[1]) / 2), round((side[0] - side[1]) / 2)
    seen = np.array(resized.crop((left, top, left + side[1], top + side[1])))
    assert np.array_equal(loaded.unpreprocess(loaded.preprocess(PICTURE)), seen)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_resnet"])
@pytest.mark.parametrize(("size", "shape"), [(64, (64, 64)), ((64, 96), (64, 96))])
def test_another_size_of_input(name: str, size: Any, shape: tuple[int, int]) -> None:
    """A square or height and width, for nets that take any."""
    loaded = attribkit.load(name, "none")
    x = loaded.preprocess(PICTURE, size=size)
    assert x.shape == (3, *shape)
    assert loaded.unpreprocess(x).shape == (*shape, 3)
    assert loaded.model(x[None]).shape == (1, 1000)


def test_another_size_keeps_the_margin_around_the_crop() -> None:
    """Half the size shows the same part of the picture."""
    preset = models.ResNet18_Weights.DEFAULT.transforms(crop_size=112, resize_size=128)
    found = attribkit.load("torchvision:resnet18", "none").preprocess(PICTURE, size=112)
    assert torch.equal(found, preset(Image.fromarray(PICTURE)))


def test_labels_are_in_the_order_of_the_logits() -> None:
    """Both libraries' words for two classes, a thousand in all."""
    for name in ("torchvision:squeezenet1_1", "timm:test_resnet"):
        labels = attribkit.load(name, "none").labels
        assert len(labels) == 1000
        assert labels[0].startswith("tench")
        assert labels[281].startswith("tabby")


def test_bare_reference_models_take_other_channels() -> None:
    """Pictures become grey for one; for five there are none, and the layers are known all the same."""
    grey = attribkit.load("all_cnn_c", "none", classes=7, channels=1)
    x = grey.preprocess(PICTURE)
    assert grey.model(x[None]).shape == (1, 7)
    shown = grey.unpreprocess(x)
    assert shown.shape == (32, 32, 3)
    assert (shown == shown[..., :1]).all()
    five = attribkit.load("model_a", "none", channels=5)
    assert five.model(torch.zeros(1, 5, 32, 32)).shape == (1, 10)
    assert five.layers["conv1"].channels == 96
    for ask in (lambda: five.preprocess(PICTURE), lambda: five.unpreprocess(torch.zeros(5, 32, 32))):
        with pytest.raises(ValueError, match="a picture has 1 or 3 channels, but the network takes 5"):
            ask()
    with pytest.raises(WeightsError, match="leave channels= out"):
        attribkit.load("strided_cnn_c", channels=1)
    for name in ("torchvision:resnet18", "mynets:build"):
        with pytest.raises(ValueError, match="channels= is for the reference models"):
            attribkit.load(name, "none", channels=1)


def test_reference_models_carry_their_normalisation_and_classes(tmp_path: Path) -> None:
    """A file of `attribkit train` says all that is needed; another file, or another number of classes, is refused."""
    net = architectures.build("strided_cnn_c", 3)
    normalisation = Normalisation(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 0.2]))
    facts = {"architecture": "strided_cnn_c", "classes": ["cat", "dog", "eel"], "channels": 3}
    trained.save(tmp_path / "w.safetensors", trained.Trained(net, normalisation, facts))
    loaded = attribkit.load("strided_cnn_c", tmp_path / "w.safetensors")
    assert loaded.labels == ("cat", "dog", "eel")
    x = loaded.preprocess(PICTURE)
    resized = Image.fromarray(PICTURE).resize((42, 32), Image.Resampling.BILINEAR)  # 120 x 90, shorter side 32
    seen = np.array(resized.crop((5, 0, 37, 32)))
    assert np.array_equal(loaded.unpreprocess(x), seen)
    assert torch.allclose(x[2], (torch.from_numpy(seen[..., 2] / 255).float() - 0.3) / 0.2, atol=1e-6)
    assert torch.equal(loaded.model(x[None]), net.eval()(x[None]))
    with pytest.raises(ValueError, match="weights of strided_cnn_c, not of all_cnn_c"):
        attribkit.load("all_cnn_c", tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="has 3 classes, not 5"):
        attribkit.load("strided_cnn_c", tmp_path / "w.safetensors", classes=5)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_h_14"])
def test_without_weights_a_net_of_one_size_takes_what_its_preprocessing_gives(name: str) -> None:
    """torchvision builds vit_h_14 for another size with its weights than without."""
    with torch.device("meta"):  # 632 million weights
        loaded = attribkit.load(f"torchvision:{name}", "none")
    x = loaded.preprocess(PICTURE)[None].to("meta")
    assert loaded.model(x).shape == (1, 1000)


def test_fully_convolutional_nets_take_any_size() -> None:
    """224 pixels instead of 32."""
    loaded = attribkit.load("reference:all_cnn_c", "none", classes=4)
    assert loaded.preprocess(PICTURE).shape == (3, 32, 32)
    x = loaded.preprocess(PICTURE, size=64)
    assert loaded.unpreprocess(x).shape == (64, 64, 3)
    assert loaded.model(x[None]).shape == (1, 4)


# All kinds of models ----------------------------------------------------------------------------------------


def test_segmentation_is_explained_through_its_output() -> None:
    """The output is a dict, from which `output` takes the map of classes."""
    loaded = attribkit.load("torchvision:lraspp_mobilenet_v3_large", "none")
    x = loaded.preprocess(PICTURE, size=64)[None]
    assert x.shape == (1, 3, 64, 85)
    found = attribkit.explain(loaded.model, x, output=loaded.output, target=3)
    assert found.values.shape == x.shape
    assert len(loaded.labels) == 21


def test_video_takes_frames_or_one_picture_that_stands_still() -> None:
    """A clip is 3 x frames x H x W, and comes back as frames."""
    loaded = attribkit.load("torchvision:mc3_18", "none")
    clip = loaded.preprocess([PICTURE] * 3)
    assert clip.shape == (3, 3, 112, 112)
    assert torch.equal(loaded.preprocess(np.stack([PICTURE] * 3)), clip)
    assert torch.equal(loaded.preprocess(PICTURE)[:, 5], clip[:, 0])
    colours = np.full((2, 50, 60, 3), [250, 120, 0], np.uint8)
    colours[1] //= 2
    assert np.array_equal(
        loaded.unpreprocess(loaded.preprocess(colours)), colours[:, :1, :1].repeat(112, 1).repeat(112, 2)
    )
    assert len(loaded.labels) == 400


def test_optical_flow_takes_two_pictures_in_one_tensor() -> None:
    """The two lie one on the other, and the last of RAFT's estimates is explained."""
    loaded = attribkit.load("torchvision:raft_small", "none")
    pair = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    x = loaded.preprocess(list(pair))
    assert x.shape == (6, 128, 128)
    assert np.array_equal(loaded.unpreprocess(x), pair)
    plain = models.optical_flow.raft_small()
    plain.load_state_dict(loaded.model.state_dict())
    with torch.no_grad():
        found = loaded.model(x[None])
        assert torch.equal(found[-1], plain.eval()(x[None, :3], x[None, 3:])[-1])
    assert loaded.output is not None
    assert loaded.output(found) is found[-1]
    with pytest.raises(ValueError, match="two pictures"):
        loaded.preprocess(pair[0])


def test_detection_is_explained_at_the_layers_of_its_backbone() -> None:
    """The picture goes in as it is, and the network resizes it."""
    loaded = attribkit.load("torchvision:ssdlite320_mobilenet_v3_large", "none")
    x = loaded.preprocess(PICTURE)
    assert x.shape == (3, 90, 120)
    assert np.array_equal(loaded.unpreprocess(x), PICTURE)
    assert "backbone.features.0.0" in loaded.layers
    found = attribkit.explain(loaded.model, x[None], layer="backbone.features.0.0")
    assert found.values.abs().max() > 0


# Layers -----------------------------------------------------------------------------------------------------


def test_layers_tell_kind_shape_stride_and_receptive_field() -> None:
    """As counted by hand: 3 pixels; 1 more by the pool; 2 more units, 2 pixels apart, by the next convolution."""
    first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
    net = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers = attribkit.LoadedModel("net", net, Plain()).layers
    pool, conv = layers["2"], layers["3"]
    assert (pool.kind, pool.shape, pool.stride, pool.receptive_field) == ("MaxPool2d", (4, 112, 112), (2, 2), (4, 4))
    assert (conv.kind, conv.channels, conv.stride, conv.receptive_field) == ("Conv2d", 6, (2, 2), (8, 8))
    assert (layers["4"].shape, layers["4"].stride, layers["4"].receptive_field) == ((6, 1, 1), None, None)
    assert layers["5"].shape == (6,)
    assert list(layers) == ["0", "1", "2", "3", "4", "5"]


def test_all_receptive_fields_are_found_at_once() -> None:
    """The first that is asked for costs one forward pass over the network, the others none."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3))
    passes: list[int] = []
    net[0].register_forward_hook(lambda module, args, output: passes.append(len(output)))
    layers = attribkit.LoadedModel("net", net, Plain()).layers
    passes.clear()
    assert [layer.receptive_field for layer in layers.values()] == [(3, 3), (3, 3), (4, 4), (8, 8)]
    assert passes == [1]


def test_strides_are_exact_where_the_map_does_not_divide_the_image() -> None:
    """299 pixels become 8 units in inception_v3, 32 pixels apart."""
    assert attribkit.load("torchvision:inception_v3", "none").layers["Mixed_7c"].stride == (32, 32)


class Twice(nn.Module):
    """Calls one convolution two times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.unused = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x)).relu()


def test_a_layer_is_what_its_first_call_gives() -> None:
    """As `explain` takes it; what is never called is not listed."""
    layers = attribkit.LoadedModel("twice", Twice(), Plain()).layers
    assert list(layers) == ["conv"]
    assert layers["conv"].shape == (3, 222, 222)


def test_an_unknown_layer_suggests_the_nearest() -> None:
    """And is a KeyError too, as of any mapping."""
    layers = attribkit.load("timm:test_resnet", "none").layers
    with pytest.raises(UnknownLayer, match=r"^no layer 'layr3' in ResNet; the nearest: layer3"):
        layers["layr3"]
    assert "layr3" not in layers


def test_looking_at_the_layers_leaves_the_model_as_it_was() -> None:
    """No hook stays, nothing moves to another device."""
    loaded = attribkit.load("timm:test_resnet", "none")
    before = {key: tensor.clone() for key, tensor in loaded.model.state_dict().items()}
    assert len(loaded.layers) > 20
    assert not any(module._forward_hooks for module in loaded.model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in loaded.model.state_dict().items())


# Other people's code ----------------------------------------------------------------------------------------

NET = """
from torch import nn
from beside import WIDTH

def build():
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def sized(weights="default", classes=2):
    net = nn.Linear(1, classes)
    net.weights = weights
    return net

ready = build()
number = 7
def wrong(): return 3
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `mynets.py` and what it imports, as the current folder."""
    (tmp_path / "mynets.py").write_text(NET, encoding="utf-8")
    (tmp_path / "beside.py").write_text("WIDTH = 5\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return tmp_path


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("name", ["mynets:build", "./mynets.py:build", "mynets:ready"])
def test_a_function_in_other_code_builds_a_model(name: str) -> None:
    """By dotted name or file; the picture is taken as it is, in numbers from 0 to 1."""
    before = list(sys.path)
    loaded = attribkit.load(name)
    assert sys.path == before
    assert loaded.name == name
    x = loaded.preprocess(PICTURE)
    assert x.shape == (3, 90, 120)
    assert np.array_equal(loaded.unpreprocess(x), PICTURE)
    assert loaded.model(x[None]).shape == (1, 5)
    assert attribkit.explain(loaded.model, x[None], target=1).values.shape == (1, 3, 90, 120)


@pytest.mark.usefixtures("code")
def test_weights_and_classes_go_to_a_factory_that_takes_them() -> None:
    """Otherwise a file is loaded into what it gives, and other wishes are refused."""
    model = attribkit.load("mynets:sized", "none", classes=3).model
    assert (model.weights, model.out_features) == ("none", 3)
    torch.save(nn.Sequential(nn.Conv2d(3, 5, 3)).state_dict(), "w.pth")
    saved = torch.load("w.pth")["0.weight"]
    assert torch.equal(attribkit.load("mynets:build", "w.pth").model[0].weight, saved)  # type: ignore[index]
    with pytest.raises(WeightsError, match="leave weights= out"):
        attribkit.load("mynets:build", "none")
    with pytest.raises(ValueError, match="takes no classes="):
        attribkit.load("mynets:build", classes=3)


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("mynets:bild", UnknownModel, "no 'bild' in mynets"),
        ("mynets:number", UnknownModel, "is a int, not a function"),
        ("mynets:wrong", TypeError, "returns int, not a torch.nn.Module"),
        ("./nothere.py:build", UnknownModel, "there is no file nothere.py"),
        ("nothere.nets:build", UnknownModel, "neither a module nor one of the sources"),
    ],
)
def test_what_is_no_model_is_refused(name: str, error: type[Exception], message: str) -> None:
    """In one line that names it."""
    with pytest.raises(error, match=message) as caught:
        attribkit.load(name)
    assert "\n" not in str(caught.value)


def test_a_broken_module_shows_its_own_error(code: Path) -> None:
    """What it needs is missing, and not the module."""
    (code / "broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        attribkit.load("broken:build")


# Other packages' sources ------------------------------------------------------------------------------------


def how_to() -> str:
    """The source in the documentation."""
    page = Path(__file__).parents[2] / "docs" / "how-to-add-a-model-source.md"
    return page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The documentation's source, installed as a package with an entry point."""
    (tmp_path / "tinynets.py").write_text(how_to(), encoding="utf-8")
    info = tmp_path / "tinynets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tinynets\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{loading.GROUP}]\ntiny = tinynets\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tinynets", raising=False)
    return tmp_path


@pytest.mark.usefixtures("package")
def test_the_documented_source_works_through_its_entry_point() -> None:
    """By prefix, as a bare name, in the list, in the suggestions, and up to an explanation."""
    loaded = attribkit.load("tiny:three_layers", "none")
    assert attribkit.load("three_layers", "none").name == "tiny:three_layers"
    assert attribkit.list_models("three*") == ["tiny:three_layers"]
    assert attribkit.load("squeezenet1_1", "none").name == "torchvision:squeezenet1_1"
    with pytest.raises(UnknownModel, match="tiny:three_layers"):
        attribkit.load("three_layer", "none")
    x = loaded.preprocess(PICTURE)[None]
    assert attribkit.explain(loaded.model, x).units[0].channel in range(len(loaded.labels))


def test_preprocessing_of_ones_own_needs_two_methods() -> None:
    """A LoadedModel can be made by hand, too."""

    class Halved(Plain):
        def transform(self, size: Any) -> Callable[[Any], torch.Tensor]:
            plain = super().transform(size)
            return lambda image: plain(image) / 2

        def restore(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    loaded = attribkit.LoadedModel("mine", nn.ReLU(), Halved())
    assert np.array_equal(loaded.unpreprocess(loaded.preprocess(PICTURE)), PICTURE)
