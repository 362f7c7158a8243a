"""The result: it says what it is, and files of it are whole, reproducible and readable again."""

import json
import os
import stat
import time

import cv2
import numpy as np
import pytest
import torch

from attribkit import files
from attribkit.engine.plan import Site
from attribkit.errors import BadValue
from attribkit.explaining.attribution import Attribution
from attribkit.units import Unit

FORMATS = ["png", "npz", "safetensors", "json"]


def sites(swapped=2, left=("sigmoid",)):
    taken = [Site(f"relu{i}", "relu", "rectifier", "module", 1, True) for i in range(swapped)]
    return tuple(taken + [Site(f"gate{i}", op, "gate", "function", 2, False) for i, op in enumerate(left)])


def attribution(maps=1, *, dtype=torch.float32, layer=None, shape=(3, 8, 6), **fields):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((maps, *shape), generator=generator).to(dtype)
    units = tuple(
        Unit(
            image=i,
            layer=layer,
            channel=285 + i,
            position=(3, 4) if layer else None,
            activation=9.3125,
            box=None,
        )
        for i in range(maps)
    )
    made = {"method": "guided", "model": "EfficientNet", "sites": sites(), "settings": {"switches": "own"}}
    return Attribution(values=values, units=units, **made | fields)


def test_it_tells_method_model_units_and_sites():
    assert repr(attribution(shape=(3, 224, 224))) == (
        "Attribution(guided, EfficientNet: 1 map of 3x224x224; output[285]=9.31; "
        "2 of 3 sites swapped, left alone: 1 sigmoid)"
    )


def test_it_tells_a_few_of_many_units_and_which_image_each_is_of():
    told = repr(attribution(5, layer="conv9"))
    assert "5 maps of 3x8x6; image 0: conv9[285]@3,4=9.31, image 1: " in told
    assert "and 2 more; " in told


def test_sites_left_alone_are_counted_by_operation():
    told = repr(attribution(sites=sites(1, ["silu", "sigmoid", "silu"])))
    assert "1 of 4 sites swapped, left alone: 2 silu, 1 sigmoid)" in told


def test_nothing_is_said_of_sites_left_alone_when_there_are_none():
    assert repr(attribution(sites=sites(4, []))).endswith("4 of 4 sites swapped)")


def test_every_map_needs_its_unit():
    with pytest.raises(ValueError, match=r"1 units need one map each.*\(2, 3, 4, 4\)"):
        Attribution(torch.zeros(2, 3, 4, 4), attribution().units, "guided", "Net", (), {})


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_content_gives_the_same_bytes(tmp_path, ending, monkeypatch):
    """Also on another day, over a file that is there already, and with gradients still attached."""
    first, second = tmp_path / f"one.{ending}", tmp_path / f"two.{ending}"
    attribution(2).save(first)
    later = time.time() + 400 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    second.write_bytes(b"old")
    again = attribution(2)
    again.values.requires_grad_()
    again.save(second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, ending, call, monkeypatch):
    """When writing fails at the last moment the old file stays, and nothing lies beside it."""
    path = tmp_path / f"map.{ending}"
    path.write_bytes(b"old")

    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="disk full"):
        attribution().save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(tmp_path / "x.bin", b"data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", FORMATS)
def test_names_may_be_in_any_script_and_folders_are_made(tmp_path, ending):
    path = tmp_path / "новая папка" / "猫 قطة" / f"карта 🐱.{ending.upper()}"
    attribution(model="Сеть", settings={"image": "猫.jpg"}).save(path)
    assert path.stat().st_size > 0


def test_a_file_name_that_is_not_utf8_can_be_told_in_a_manifest(tmp_path):
    """Python keeps such bytes as half surrogate pairs, which have no UTF-8 of their own."""
    odd = os.fsdecode(b"caf\xe9.jpg") if os.name == "posix" else "caf\udce9.jpg"
    made = attribution(settings={"image": odd})
    for ending in ("npz", "safetensors"):
        made.save(tmp_path / f"a.{ending}")
        assert Attribution.load(tmp_path / f"a.{ending}").settings == {"image": odd}
    made.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text("utf-8"))["settings"] == {"image": odd}


@pytest.mark.skipif(os.name != "posix", reason="permissions and links as POSIX has them")
def test_a_written_file_has_the_usual_permissions_and_links_are_followed(tmp_path):
    ordinary, ours = tmp_path / "ordinary", tmp_path / "ours"
    ordinary.write_bytes(b"")
    files.write_whole(ours, b"1")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    ours.chmod(0o640)
    (tmp_path / "link").symlink_to(ours)
    files.write_whole(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink()
    assert (ours.read_bytes(), stat.S_IMODE(ours.stat().st_mode)) == (b"2", 0o640)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_what_is_saved_is_loaded_again(tmp_path, ending, dtype):
    made = attribution(2, dtype=dtype, layer="conv9", settings={"switches": "own", "clamped": [1, None, 0.5]})
    made.save(tmp_path / f"a.{ending}")
    back = Attribution.load(tmp_path / f"a.{ending}")
    assert back.values.dtype == dtype
    assert torch.equal(back.values, made.values)
    assert (back.units, back.sites, back.settings) == (made.units, made.sites, made.settings)
    assert (back.method, back.model, repr(back)) == (made.method, made.model, repr(made))


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_values_that_are_not_finite_are_kept_by_the_files_that_hold_values(tmp_path, ending):
    made = attribution()
    made.values[0, 0, 0, 0], made.values[0, 0, 0, 1] = torch.nan, torch.inf
    made.save(tmp_path / f"a.{ending}")
    back = Attribution.load(tmp_path / f"a.{ending}")
    assert torch.equal(back.values.nan_to_num(7), made.values.nan_to_num(7))


def test_an_npz_is_read_by_numpy_alone(tmp_path):
    made = attribution(2)
    made.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert (archive["values"] == made.values.numpy()).all()
        assert json.loads(str(archive["manifest"]))["method"] == "guided"


def test_json_holds_the_manifest_and_a_summary_but_no_pixels(tmp_path):
    made = attribution(2, layer="conv9")
    made.save(tmp_path / "a.json")
    told = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert told["units"][1]["channel"] == 286
    assert told["units"][1]["position"] == [3, 4]
    assert [site["swapped"] for site in told["sites"]] == [True, True, False]
    assert told["settings"] == {"switches": "own"}
    assert (told["shape"], told["dtype"]) == ([2, 3, 8, 6], "float32")
    assert told["versions"]["torch"] == torch.__version__
    for summary, values in zip(told["maps"], made.values.double().flatten(1).tolist(), strict=True):
        assert (summary["min"], summary["max"]) == (min(values), max(values))
        assert summary["mean"] == pytest.approx(sum(values) / len(values), rel=1e-12)
    assert "values" not in told


def test_json_stays_json_when_values_are_not_finite(tmp_path):
    """JSON knows no NaN; many readers refuse a file that has one."""
    made = attribution(settings={"limit": float("inf")})
    made.values.fill_(torch.nan)
    made.save(tmp_path / "a.json")
    told = json.loads((tmp_path / "a.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert (told["settings"]["limit"], told["maps"][0]["mean"]) == ("inf", "nan")


def test_a_setting_that_json_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"settings\['rule'\] is a function"):
        attribution(settings={"rule": lambda signal, gate: signal}).save(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_a_file_of_someone_else_is_not_taken_for_a_result(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "npz":
        np.savez(path, values=np.zeros(3))
    else:
        import safetensors.torch

        safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"not written by Attribution\.save"):
        Attribution.load(path)


def test_one_map_is_one_picture_and_several_are_a_grid(tmp_path):
    attribution(1).save(tmp_path / "one.png")
    attribution(4).save(tmp_path / "four.png")
    assert cv2.imread(str(tmp_path / "one.png")).shape == (8, 6, 3)
    assert cv2.imread(str(tmp_path / "four.png")).shape == (8 * 2 + 12, 6 * 2 + 12, 3)


def test_the_view_changes_the_picture(tmp_path):
    made = attribution(dtype=torch.bfloat16)
    for view in ("signed", "absolute", "positive"):
        made.save(tmp_path / f"{view}.png", view=view)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_picture_of_values_that_are_not_finite_is_refused(tmp_path, bad):
    made = attribution(3)
    made.values[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="map 1 holds NaN or infinite values"):
        made.save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_picture_wants_images(tmp_path):
    with pytest.raises(ValueError, match="C x H x W"):
        attribution(shape=(3, 50)).save(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.jpg", "a", ".png", "a.png.gz"])
def test_an_unknown_ending_is_told_the_five(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.png, \.html, \.npz, \.safetensors or \.json"):
        attribution().save(tmp_path / "folder" / name)
    assert not list(tmp_path.iterdir())


def test_loading_says_what_it_can_load():
    with pytest.raises(ValueError, match=r"\.npz or \.safetensors"):
        Attribution.load("a.png")


def test_a_picture_has_the_pixels_of_the_saved_file(tmp_path):
    """In each view, of one map and of several."""
    for maps in (torch.randn(1, 3, 8, 8), torch.randn(4, 3, 8, 8)):
        result = Attribution(
            maps, tuple(Unit(0, None, i, None, 1.0) for i in range(len(maps))), "guided", "Net", (), {}
        )
        for view in ("classic", "signed"):
            result.save(tmp_path / "map.png", view=view)
            assert (np.asarray(result.picture(view=view)) == cv2.imread(str(tmp_path / "map.png"))[..., ::-1]).all()
        result.save(tmp_path / "map.png")
        assert result._repr_png_() == (tmp_path / "map.png").read_bytes()


def test_maps_that_are_no_pictures_show_their_words_in_a_notebook():
    result = Attribution(torch.randn(1, 3, 8), (Unit(0, None, 1, None, 1.0),), "guided", "Net", (), {})
    assert result._repr_png_() is None
    with pytest.raises(BadValue, match="C x H x W"):
        result.picture()
