"""Results to a panel and to a page: what is where, what is escaped, and that nothing is stretched or fetched."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from attribkit.report import panel as panels
from attribkit.report import pictures
from attribkit.report.layout import below, drawn, svg
from attribkit.report.page import Writer, page
from attribkit.report.panel import common_strengths, layout, panel
from attribkit.report.shown import Shown
from attribkit.report.stored import store, stored_picture
from attribkit.units import Unit

FACTS = {"command": "attribkit explain cat.jpg", "model": "all_cnn_c", "torch": "2.6"}
HOSTILE = '<script>alert("1")</script>\'"><img src=x onerror=alert(1)> &amp; \u202egpj.قطة'
YELLOW, DARK = (255, 196, 0), (20, 20, 20)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def shown(random, height=32, width=32, channels=3, methods=("guided", "backprop"), **changes):
    fields = {
        "name": "cat.jpg",
        # Darker than white and unlike the box's yellow, so that a search finds the picture and nothing else.
        "picture": random.integers(30, 190, (height, width, 3), np.uint8),
        "maps": {method: random.standard_normal((channels, height, width)) for method in methods},
        "unit": unit(None),
        "label": "tiger cat, 38%",
        "sites": dict.fromkeys(methods, "9 of 9 sites swapped"),
    }
    return Shown(**{**fields, **changes})


def within(one):
    """The same with maps that are zero outside of what the unit sees."""
    top, left, bottom, right = one.part
    mask = np.zeros(one.picture.shape[:2])
    mask[top:bottom, left:right] = 1
    return replace(one, maps={method: values * mask for method, values in one.maps.items()})


def unit(box, layer="conv9"):
    return Unit(image=0, layer=layer, channel=41, position=(3, 4), activation=1.25, box=box)


def enlarged(image, factor):
    """Each pixel as a square, by the definition."""
    height, width = image.shape[:2]
    return np.array([[image[y // factor, x // factor] for x in range(width * factor)] for y in range(height * factor)])


def find(sheet, part):
    """Where `part` lies in `sheet`, looked for everywhere."""
    height, width = part.shape[:2]
    starts = sheet[: sheet.shape[0] - height + 1, : sheet.shape[1] - width + 1]
    ends = sheet[height - 1 :, width - 1 :]
    places = np.argwhere((starts == part[0, 0]).all(-1) & (ends == part[-1, -1]).all(-1)).tolist()
    return [(y, x) for y, x in places if (sheet[y : y + height, x : x + width] == part).all()]


def written(monkeypatch, make):
    """The lines of text that `make` writes onto its picture."""
    lines, write = [], pictures.write

    def write_down(sheet, text, *rest):
        lines.extend(text)
        write(sheet, text, *rest)

    monkeypatch.setattr(pictures, "write", write_down)
    make()
    return lines


class TestShown:
    @pytest.mark.parametrize(
        ("box", "seen", "part"),
        [
            (None, None, None),
            ((0, 0, 20, 30), (0, 0, 20, 30), None),
            ((-5, -5, 25, 35), (0, 0, 20, 30), None),
            ((5, 6, 7, 90), (5, 6, 7, 30), (5, 6, 7, 30)),
            ((25, 0, 30, 10), None, None),
            ((3, 9), None, None),
        ],
    )
    def test_a_box_is_what_lies_in_the_picture(self, random, box, seen, part):
        one = shown(random, 20, 30, unit=unit(box))
        assert (one.box, one.part) == (seen, part)

    def test_a_map_has_the_size_of_its_picture(self, random):
        with pytest.raises(ValueError, match=r"cat.jpg: the map of guided is \(3, 8, 9\)"):
            shown(random, 8, 8, maps={"guided": np.zeros((3, 8, 9))})

    def test_without_maps_there_is_nothing_to_show(self, random):
        with pytest.raises(ValueError, match="no maps"):
            shown(random, maps={})

    def test_maps_of_a_class_by_rules_that_hardly_depend_on_it_come_with_a_caution(self, random):
        of_a_class = shown(random, unit=unit(None, layer=None), methods=("backprop", "deconvnet", "guided"))
        assert of_a_class.caution.startswith("deconvnet and guided maps hardly depend on the class: docs/metrics.md")
        assert shown(random).caution is None
        assert shown(random, unit=unit(None, layer=None), methods=("backprop",)).caution is None
        assert "hardly depend on the class" in page([shown(random), of_a_class], FACTS).decode()
        assert "hardly depend on the class" not in page([shown(random)], FACTS).decode()

    def test_a_unit_is_told_in_words(self, random):
        assert shown(random).target == "conv9, channel 41 at 3,4"
        assert shown(random, unit=unit(None, layer=None)).target == "output 41"
        whole = Unit(image=0, layer="conv9", channel=2, position=None, activation=1.0)
        assert shown(random, unit=whole).target == "conv9, channel 2, summed over all positions"


class TestPanel:
    @pytest.mark.parametrize(
        ("size", "factor"), [((224, 224), 1), ((32, 32), 10), ((20, 50), 6), ((1, 1), 336), ((3, 300), 1)]
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_picture_and_each_map_stand_once_in_one_line_by_whole_pixels(self, random, size, factor, channels):
        one = shown(random, *size, channels=channels)
        sheet = panel(one)
        images = [one.picture, *(pictures.picture(values) for values in one.maps.values())]
        places = [find(sheet, enlarged(image, factor)) for image in images]
        if size != (1, 1):  # two maps of one pixel look the same
            assert [len(place) for place in places] == [1, 1, 1]
        tops, lefts = zip(*(place[-1] for place in places), strict=True)
        assert len(set(tops)) == 1
        assert list(lefts) == sorted(lefts)

    @pytest.mark.parametrize("view", pictures.VIEWS)
    def test_maps_are_drawn_in_the_view_that_is_asked_for(self, random, view):
        one = shown(random, 64, 64)
        assert len(find(panel(one, view), enlarged(pictures.picture(one.maps["guided"], view), 5))) == 1

    def test_a_box_is_drawn_around_what_the_unit_sees_and_hides_none_of_it(self, random):
        """On the whole picture, small; one of 112 pixels is there as it is."""
        one = within(shown(random, 112, 112, unit=unit((4, 6, 31, 32))))
        sheet = panel(one)
        ((top, left),) = find(sheet, one.picture[40:])
        top -= 40
        seen = sheet[top + 4 : top + 31, left + 6 : left + 32]
        assert (seen == one.picture[4:31, 6:32]).all()
        for away, colour in [(1, YELLOW), (2, YELLOW), (3, DARK)]:
            first, last = (top + 4 - away, left + 6 - away), (top + 30 + away, left + 31 + away)
            lines = [
                sheet[first[0], first[1] : last[1] + 1],
                sheet[last[0], first[1] : last[1] + 1],
                sheet[first[0] : last[0] + 1, first[1]],
                sheet[first[0] : last[0] + 1, last[1]],
            ]
            assert all((line == colour).all() for line in lines)

    def test_what_the_unit_sees_and_its_maps_are_large(self, random):
        one = within(shown(random, 64, 64, unit=unit((10, 20, 30, 60))))
        sheet = panel(one)
        places = []
        for image in (one.picture, *(pictures.picture(values) for values in one.maps.values())):
            places += find(sheet, enlarged(image[10:30, 20:60], 8))
        assert len(places) == 3
        assert len({top for top, _ in places}) == 1

    def test_nothing_of_a_map_is_cut_off(self, random):
        """Where a map has something outside of what the unit sees, all of it is shown, and so is the box."""
        one = shown(random, 64, 64, unit=unit((10, 20, 30, 60)))
        sheet = panel(one)
        assert len(find(sheet, enlarged(pictures.picture(one.maps["guided"]), 5))) == 1
        assert (sheet == YELLOW).all(-1).any()

    @pytest.mark.parametrize("box", [None, (0, 0, 32, 32), (-9, -9, 50, 50)])
    def test_a_unit_that_sees_everything_has_no_box(self, random, box):
        assert not (panel(shown(random, unit=unit(box))) == YELLOW).all(-1).any()

    def test_every_map_says_its_scale(self, random, monkeypatch):
        maps = {"guided": np.full((1, 4, 4), 0.01234), "backprop": np.full((1, 4, 4), 250.0)}
        lines = written(monkeypatch, lambda: panel(shown(random, 4, 4, maps=maps)))
        assert [line for line in lines if re.fullmatch(r"[-\d.e+]+", line)] == [
            "-0.012",
            "0",
            "0.012",
            "-2.5e+02",
            "0",
            "2.5e+02",
        ]
        lines = written(monkeypatch, lambda: panel(shown(random, 4, 4, maps=maps), "absolute"))
        assert [line for line in lines if re.fullmatch(r"[-\d.e+]+", line)] == ["0", "0.012", "0", "2.5e+02"]

    @pytest.mark.parametrize("view", pictures.VIEWS)
    def test_the_bar_has_the_colours_of_the_view(self, random, view):
        """From the lowest value to the highest, a pixel for each of the map."""
        values = np.linspace(-1 if view in ("classic", "signed") else 0, 1, 336)
        colours = pictures.picture(values[None, None], view, 1.0)
        sheet = panel(shown(random, 8, 8), view)
        assert len(find(sheet, colours.repeat(10, 0))) == 2

    def test_a_map_of_zeros_is_plain_and_says_so(self, random, monkeypatch):
        one = shown(random, 8, 8, maps={"guided": np.zeros((3, 8, 8))})
        assert "zero everywhere" in written(monkeypatch, lambda: panel(one))
        assert len(find(panel(one), np.full((336, 336, 3), 128, np.uint8))) == 1

    def test_it_tells_the_unit_its_activation_and_its_sites(self, random, monkeypatch):
        sites = {"guided": "8 of 9 sites swapped, left alone: 1 sigmoid", "backprop": "9 of 9 sites swapped"}
        told = " ".join(written(monkeypatch, lambda: panel(shown(random, sites=sites))))
        for part in (
            "cat.jpg",
            "conv9, channel 41 at 3,4",
            "activation 1.25",
            "tiger cat, 38%",
            "left alone: 1 sigmoid",
        ):
            assert part in told

    def test_methods_with_the_same_sites_share_a_line(self, random, monkeypatch):
        assert "guided, backprop: 9 of 9 sites swapped" in written(monkeypatch, lambda: panel(shown(random)))

    def test_ways_past_pools_stand_side_by_side_below_each_other_rules(self, random, monkeypatch):
        """A row per rule; the picture stands before the first."""
        names = [f"{rule}, {way}" for rule in ("guided", "deconvnet") for way in ("own switches", "no switches")]
        one = shown(random, 8, 8, methods=names)
        sheet = panel(one)
        places = [find(sheet, enlarged(pictures.picture(values), 42)) for values in one.maps.values()]
        ((top, left),), ((_, right),), ((low, below),), ((lowest, last),) = places
        assert (low, last) == (lowest, right)
        assert (below, left < right, top < low) == (left, True, True)
        assert find(sheet, enlarged(one.picture, 42)) == [(top, find(sheet, enlarged(one.picture, 42))[0][1])]
        assert "guided, deconvnet: 9 of 9 sites swapped" in written(monkeypatch, lambda: panel(one))

    def test_compared_maps_show_the_part_that_the_unit_sees(self, random):
        names = ["guided, own switches", "guided, no switches", "backprop, own switches", "backprop, no switches"]
        one = within(shown(random, 64, 64, methods=names, unit=unit((10, 20, 30, 60))))
        sheet = panel(one)
        for image in (one.picture, *(pictures.picture(values) for values in one.maps.values())):
            assert len(find(sheet, enlarged(image[10:30, 20:60], 8))) == 1

    def test_panels_of_one_figure_can_share_a_scale(self, random, monkeypatch):
        weak, strong = (shown(random, 8, 8, maps={"guided": np.full((1, 8, 8), size)}) for size in (1.0, 4.0))
        strengths = common_strengths([weak, strong], "signed")
        assert strengths == {"guided": 4.0}
        sheet = panel(weak, "signed", strengths)
        assert len(find(sheet, enlarged(pictures.picture(weak.maps["guided"], "signed", 4.0), 42))) == 1
        assert "4" in written(monkeypatch, lambda: panel(weak, "signed", strengths))

    def test_every_view_has_its_colours_explained(self):
        assert set(panels.COLOURS) == set(pictures.VIEWS)

    @pytest.mark.parametrize("name", [HOSTILE, "猫" * 80, "", "-rf", "half \udc80 a pair", "x" * 300])
    def test_any_name_can_be_written(self, random, name):
        assert panel(shown(random, name=name)).shape[1] == panel(shown(random)).shape[1]

    def test_the_same_result_gives_the_same_bytes(self):
        one, again = (panel(shown(np.random.default_rng(3), unit=unit((1, 2, 9, 9)))) for _ in range(2))
        assert pictures.encode_png(one) == pictures.encode_png(again)


class TestLayout:
    def test_twice_the_scale_is_twice_the_picture_and_finer_letters(self, random):
        one = within(shown(random, 40, 40, unit=unit((10, 20, 30, 38))))
        plain, large = drawn(layout(one)), drawn(layout(one), 2)
        assert large.shape == (2 * plain.shape[0], 2 * plain.shape[1], 3)
        cut = one.picture[10:30, 20:38]
        ((top, left),) = find(plain, enlarged(cut, 16))
        assert find(large, enlarged(cut, 32)) == [(2 * top, 2 * left)]

    def test_an_svg_has_text_as_text_and_pixels_as_they_are(self, random):
        one = within(shown(random, 40, 40, name=HOSTILE, unit=unit((10, 20, 30, 38))))
        root = ElementTree.fromstring(svg(layout(one, foot=["net \x01, weights w"]), about={"model": "<net>"}))
        names = {"s": "http://www.w3.org/2000/svg"}
        texts = [text.text for text in root.iterfind("s:text", names)]
        assert HOSTILE.replace(" ", "") in "".join(texts).replace(" ", "")
        assert "net \ufffd, weights w" in texts
        assert root.find("s:desc", names).text == "model: <net>"
        images = [image_of(image.get("href")) for image in root.iterfind("s:image", names)]
        for wanted in (one.picture, *(pictures.picture(values) for values in one.maps.values())):
            assert any(image.shape == (20, 18, 3) and (image == wanted[10:30, 20:38]).all() for image in images)
        assert not re.findall(rb"script|https?://(?!www.w3.org/2000/svg)", svg(layout(shown(random))))

    def test_items_stand_within_the_layout(self, random):
        placed = layout(within(shown(random, 40, 40, name="x" * 300, unit=unit((10, 20, 30, 38)))))
        for item in placed.items:
            assert 0 < item.left < placed.width
            assert 0 < item.top < placed.height
        with_two = below([placed, placed])
        assert (with_two.width, with_two.height) == (placed.width, 2 * placed.height)
        half = drawn(with_two)[: placed.height]
        assert (half == drawn(placed)).all()
        assert (drawn(with_two)[placed.height :] == half).all()


class Page(HTMLParser):
    """The page as a browser reads it: its elements, and the text in each kind of them."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, []
        self.feed(html.decode())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:  # elements without an end stay open until the one around them ends
            pass

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def image_of(uri):
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


class TestStored:
    def test_pictures_are_kept_without_loss(self, random):
        one = shown(random, 40, 30)
        uri, lossy = stored_picture(one.picture)
        assert (image_of(uri) == one.picture).all()
        assert not lossy

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_map_comes_back_to_within_half_a_step(self, random, channels):
        one = shown(random, 16, 20, channels=channels)
        stored = store(one)
        kept = stored.maps["guided"]
        back = (image_of(kept.image).astype(float).transpose(2, 0, 1) - 128) / 127 * kept.range
        true = np.clip(one.maps["guided"], -kept.range, kept.range)
        assert stored.steps == 127
        assert kept.planes == channels
        assert abs(back - true).max() <= kept.range / 127 * 0.51

    def test_the_strengths_are_those_of_the_map(self, random):
        one = shown(random)
        kept = store(one).maps["guided"].strengths
        assert kept == {view: pictures.full_strength(one.maps["guided"], view) for view in pictures.VIEWS}

    def test_the_strongest_byte_stands_for_a_value_of_a_channel_not_for_a_sum(self, random):
        """Or a third of the steps would be all that a map of three like channels gets."""
        assert store(shown(random, 4, 4, maps={"guided": np.full((3, 4, 4), 0.5)})).maps["guided"].range == 0.5

    def test_a_map_of_two_channels_is_kept_as_their_sum(self, random):
        one = shown(random, channels=2)
        total = one.maps["guided"].sum(0, keepdims=True)
        assert store(one).maps["guided"] == store(shown(random, maps={"guided": total})).maps["guided"]

    def test_noise_is_kept_in_fewer_steps(self, random):
        assert store(shown(random, 224, 224)).steps < store(shown(random, 16, 16)).steps

    def test_a_map_of_zeros_is_kept_as_zeros(self, random):
        kept = store(shown(random, 5, 7, maps={"guided": np.zeros((3, 5, 7))})).maps["guided"]
        assert (image_of(kept.image) == 128).all()
        assert set(kept.strengths.values()) == {0.0}

    def test_what_is_longer_than_webp_allows_is_kept_too(self, random):
        picture = shown(random, 1, 17000).picture
        assert (image_of(stored_picture(picture)[0]) == picture).all()

    def test_pictures_and_maps_find_their_room(self, random):
        one = shown(random, 64, 64)
        uri, lossy = stored_picture(one.picture, 1500)
        assert lossy
        assert len(uri) * 3 / 4 <= 1500
        stored = store(one, 3000)
        assert stored.square > 1
        assert sum(len(each.image) for each in stored.maps.values()) * 3 / 4 <= 3000

    def test_a_coarse_map_is_the_means_of_squares(self, random):
        one = shown(random, 12, 18, channels=1, methods=("guided",))
        stored = store(one, start=5)
        kept = stored.maps["guided"]
        assert (stored.steps, stored.square, kept.width, kept.height) == (63, 2, 9, 6)
        means = one.maps["guided"][0].reshape(6, 2, 9, 2).mean((1, 3))
        back = (image_of(kept.image)[..., 0].astype(float) - 128) / 127 * kept.range
        assert abs(back - np.clip(means, -kept.range, kept.range)).max() <= kept.range * (0.5 / 63 + 0.51 / 127)

    def test_contrast_leads_to_the_classic_view(self, random):
        """What the page's style does to a stored map, computed as a browser does."""
        one = shown(random, 16, 20)
        kept = store(one).maps["guided"]
        assert kept.contrast > 0
        contrast = 1.04**kept.contrast
        seen = np.clip((image_of(kept.image).astype(float) - 127.5) * contrast + 127.5, 0, 255)
        assert abs(seen - pictures.picture(one.maps["guided"])).max() <= contrast + 1

    def test_only_what_the_unit_sees_is_kept_unless_something_lies_outside(self, random):
        maps = {"guided": np.zeros((3, 32, 32))}
        maps["guided"][:, 5:9, 10:20] = 1
        part = shown(random, maps=maps, unit=unit((4, 6, 20, 30)))
        kept = store(part).maps["guided"]
        assert (kept.width, kept.height) == (24, 16)
        maps["guided"][0, 3, 6] = 1e-9
        kept = store(shown(random, maps=maps, unit=unit((4, 6, 20, 30)))).maps["guided"]
        assert (kept.width, kept.height) == (32, 32)


class TestPage:
    def test_names_and_words_are_text_and_nothing_else(self, random):
        plain = Page(page([shown(random, methods=("m",), unit=unit(None))], {"command": "c"}))
        hostile = shown(
            random,
            methods=(HOSTILE,),
            name=HOSTILE,
            label=HOSTILE,
            sites={HOSTILE: HOSTILE},
            unit=unit(None, layer=HOSTILE),
        )
        read = Page(page([hostile], {"command": HOSTILE}))
        assert [tag for tag, _ in read.elements] == [tag for tag, _ in plain.elements]
        assert [sorted(attributes) for _, attributes in read.elements] == [sorted(a) for _, a in plain.elements]
        assert HOSTILE in read.texts["bdi"]
        assert HOSTILE in read.texts["code"]
        assert any(HOSTILE in attributes["alt"] for attributes in read.all("img"))

    def test_a_fact_may_have_any_key(self, random):
        assert "<b>" not in page([shown(random)], {"<b>": "x"}).decode().partition("How this page was made")[2]

    def test_it_has_all_that_was_explained(self, random):
        one = shown(random, unit=unit((4, 6, 20, 32)), sites={"guided": "8 of 9 swapped", "backprop": "9 of 9 swapped"})
        text = " ".join(" ".join(texts) for texts in Page(page([one], FACTS)).texts.values())
        parts = [
            "cat.jpg",
            "tiger cat, 38%",
            "conv9",
            "41",
            "3, 4",
            "1.25",
            "rows 4 to 19, columns 6 to 31: 26 \u00d7 16 pixels",
        ]
        for part in [*parts, "8 of 9 swapped", "9 of 9 swapped", *FACTS, *FACTS.values()]:
            assert part in text

    @pytest.mark.parametrize(
        ("box", "told"), [(None, "not known"), ((0, 0, 32, 32), "the whole picture, 32 \u00d7 32 pixels")]
    )
    def test_it_says_what_a_unit_sees_that_has_no_box_of_its_own(self, random, box, told):
        html = page([shown(random, unit=unit(box))], FACTS)
        assert told in html.decode()
        assert not Page(html).all("rect")

    def test_the_box_lies_over_the_picture(self, random):
        rectangles = Page(page([shown(random, unit=unit((4, 6, 20, 32)))], FACTS)).all("rect")
        assert {tuple(r[name] for name in ("x", "y", "width", "height")) for r in rectangles} == {
            ("6", "4", "26", "16")
        }

    def test_every_image_is_in_the_file(self, random):
        html = page([shown(random), shown(random, 8, 12, channels=1)], FACTS)
        read = Page(html)
        sources = [attributes["src"] for attributes in read.all("img")]
        sources += [attributes["href"] for attributes in read.all("image")]
        assert len(sources) == 6
        assert all(source.startswith("data:image/webp;base64,") for source in sources)
        assert all("src" not in attributes for attributes in read.all("script"))
        assert [attributes["href"] for attributes in read.all("link")] == ["data:,"]
        assert not re.findall(rb"https?:|@import|url\(", html)

    def test_only_its_own_script_and_style_may_run(self, random):
        read = Page(page([shown(random)], FACTS))
        (policy,) = [a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert "unsafe" not in policy
        for tag in ("script", "style"):
            digest = base64.b64encode(hashlib.sha256("".join(read.texts[tag]).encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        inline = [name for _, a in read.elements for name in a if name == "style" or name.startswith("on")]
        assert inline == []

    def test_every_control_has_a_label_and_every_image_a_text(self, random):
        read = Page(page([shown(random, unit=unit((1, 1, 9, 9)))] * 2, FACTS))
        assert all("alt" in attributes for attributes in read.all("img"))
        assert read.all("html") == [{"lang": "en"}]
        assert all(a.get("aria-label") or "aria-hidden" in a for a in read.all("svg"))
        names = [a["name"] for a in read.all("input") if "name" in a and a["type"] == "radio"]
        assert sorted(set(names)) == ["method-1", "method-2", "mode", "view"]

    def test_four_noisy_images_with_three_methods_stay_under_two_megabytes(self, random):
        methods = ("guided", "deconvnet", "backprop")
        four = [shown(random, 224, 224, methods=methods) for _ in range(4)]
        assert len(page(four, FACTS)) < 2_000_000

    @pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 7)])
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_any_size_and_number_of_channels_has_a_page(self, random, size, channels):
        sizes = [(a["width"], a["height"]) for a in Page(page([shown(random, *size, channels)], {})).all("img")]
        times = 224 // max(size)
        assert set(sizes) == {(str(size[1] * times), str(size[0] * times))}

    def test_the_strengths_are_told_for_each_view(self, random):
        one = shown(random, maps={"guided": np.full((1, 32, 32), -0.5)})
        (image,) = Page(page([one], FACTS)).all("img")
        strengths = json.loads(image["data-strengths"])
        assert strengths["signed"] == [0.5, "full strength 0.5"]
        assert strengths["positive"] == [0.0, "zero everywhere"]

    def test_a_name_that_is_not_utf8_is_told_with_its_escape(self, random):
        assert rb"half \udc80 a pair" in page([shown(random, name="half \udc80 a pair")], FACTS)

    def test_it_counts_units_and_images(self, random):
        """Files of one name in two folders are two images."""
        one, other = shown(random), shown(random)
        assert "3 units in 2 images" in page([one, one, other], FACTS).decode()
        assert "1 unit in 1 image," in page([one], FACTS).decode()

    def test_many_units_stay_small_and_begin_with_their_overview(self, random):
        """Of 60 noisy units a hundredth part of the usual room each; a picture is kept once for all its units."""
        picture = random.integers(30, 190, (64, 64, 3), np.uint8)
        units = [shown(random, 64, 64, picture=picture) for _ in range(60)]
        html = page(units, FACTS).decode()
        assert 'data-mode="overview"' in html
        assert 'data-mode="full"' in page(units[:3], FACTS).decode()
        assert len(Page(html.encode()).all("image")) == 1
        assert len(Page(html.encode()).all("use")) == 60 + 1  # and the viewer's

    def test_the_writer_has_a_share_for_each_unit(self, random):
        """As many as may come; what one leaves is there for the others."""
        writer = Writer(5000)
        one = shown(random, 64, 64)
        for _ in range(20):
            writer.add(one)
        assert len(writer.page(FACTS)) < 150_000 + 20 * 9_000_000 / 5000
        assert "means of squares of" in writer.page(FACTS).decode()

    def test_addresses_are_their_units_and_differ(self, random):
        """Also those of units that are alike in everything."""
        named = [shown(random, name=name) for name in ("a b.jpg", "a b.jpg", "c.jpg")]
        ids = [a["id"] for a in Page(page([*named, shown(random, unit=unit(None, layer=None))], FACTS)).all("article")]
        assert ids == ["a-b.jpg-conv9-41-3-4", "a-b.jpg-conv9-41-3-4-2", "c.jpg-conv9-41-3-4", "cat.jpg-class-41-3-4"]

    def test_a_class_is_told_by_its_first_name_where_there_is_little_room(self, random):
        lion = "lion, king of beasts, Panthera leo"
        one = shown(random, label=lion, unit=unit(None, layer=None))
        assert one.class_name == "lion"
        assert shown(random, label="tiger cat 38%, tabby 25%").class_name == "tiger cat"
        text = page([one, one], FACTS).decode()
        assert 'data-class="lion"' in text
        assert f"41, <bdi>{lion}</bdi>" in text

    def test_nothing_to_show_is_refused(self):
        with pytest.raises(ValueError, match="nothing to show"):
            page([], FACTS)

    def test_another_process_gives_the_same_bytes(self, random):
        """Whatever the order in which that process keeps its sets."""
        made = hashlib.sha256(page([shown(np.random.default_rng(0))], FACTS)).hexdigest()
        code = "import hashlib, numpy, test_report as t; from attribkit.report.page import page; "
        code += "print(hashlib.sha256(page([t.shown(numpy.random.default_rng(0))], t.FACTS)).hexdigest())"
        paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": paths}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == made
