"""The page and the section say what results.json says, what speaks against the claim first."""

from __future__ import annotations

import base64
import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import validation_page

from attribkit.reference_models.switch_study import findings, plots, wording
from attribkit.reference_models.switch_study.subjects import RANDOM_SHARE

HOSTILE = 'b|<b>_x_`"'
VERDICTS = {"source retrieval": "supported", "occlusion": "undecided", "grid": "refuted"}
PICTURE = b"\x89PNG, or nearly"
CAPTION = "A <map> of [it] | here"
BEFORE, AFTER = "# Title \n\nA `<!-- findings -->` in a line.\n", "\n\nafter, without an end"
DOCUMENT = f"{BEFORE}<!-- findings -->\nold\n<!-- /findings -->{AFTER}"
UNDEFINED = {"mean": None, "low": None, "high": None, "images": 0, "undefined": 37}


def made_up(*names: str) -> dict[str, Any]:
    """Results in which no two means are the same."""
    numbers = count(1)

    def interval() -> dict[str, Any]:
        mean = next(numbers) / 1000
        return {"mean": mean, "low": mean - 0.0301, "high": mean + 0.0203, "images": 500, "undefined": 0}

    def by_rule() -> dict[str, Any]:
        return {rule: interval() for rule in ("backprop", "deconvnet", "guided")}

    def by_condition(*others: str) -> dict[str, Any]:
        return {condition: by_rule() for condition in ("own switches", "uniform", *others)}

    def weights(kind: str) -> dict[str, Any]:
        measured: dict[str, Any] = {
            "errors": {"as it is": {"error": None, "changed": 0.0}},
            "measurements": [],
            "bounds": [],
        }
        for metric, verdict in VERDICTS.items():
            which = {"metric": metric, "unit": "class"}
            given = verdict if kind == "trained" else None
            means = by_condition(*["center"] * (kind == "trained"))
            measurement = {"means": means, "losses": by_rule(), "margin": 0.1, "verdict": given}
            measured["measurements"].append(which | measurement)
            measured["bounds"].append(which | {"means": {"random map": interval(), "Sobel map": interval()}})
        if kind == "trained":
            stages = {rule: [{"layer": "c1", "rank": interval(), "ssim": interval()}] for rule in wording.RULES}
            failures = {"class sensitivity": by_condition(), "signal convergence": by_condition()}
            measured["failures"] = failures | {"cascade": stages}
        return measured

    kinds = ("trained", "untrained", "upper third random")
    about = {"verdict": VERDICTS, "without": "uniform", "layers": {"middle": "c1", "last": "c1"}}
    return {
        "settings": {"images": 500, "asked": 400, "compared": 50, "steps": 10, "resamples": 2000}
        | {"seed": 0, "device": "cpu"},
        "versions": {"attribkit": "7.8.9", "torch": "2.99"},
        "commit": "0a1b2c",
        "data": {"source": "CIFAR-10 (JPEG)", "digest": "0123456789abcdef"},
        "margins": dict.fromkeys(VERDICTS, 0.1),
        "networks": {name: about | {kind: weights(kind) for kind in kinds} for name in names},
        "pictures": [{"file": f"figures/{names[0][0]} class.png", "caption": CAPTION}],
        "missing": {"model_c": "no weights, <alas>"},
    }


def kept(folder: Path, results: dict[str, Any]) -> Path:
    for one in results["pictures"]:
        (folder / one["file"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / one["file"]).write_bytes(PICTURE)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def intervals(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict) and "undefined" in part:
        yield part
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from intervals(inner)


@pytest.fixture
def results() -> dict[str, Any]:
    return made_up("a_net", HOSTILE)


@pytest.fixture
def out(tmp_path: Path, results: dict[str, Any]) -> Path:
    return kept(tmp_path / "out", results)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "docs" / "validation.md"
    path.parent.mkdir()
    path.write_bytes(DOCUMENT.encode())
    return path


def said_in_pages(results: dict[str, Any], out: Path) -> str:
    """The verdicts, and the tables after them."""
    verdicts, tables, _ = validation_page.pages([(results, out)])
    return verdicts + tables


def page_without_plots(results: dict[str, Any], out: Path) -> str:
    return re.sub("<svg.*?</svg>", "", findings.page(results, out), flags=re.DOTALL)


def test_what_speaks_against_the_claim_is_said_first(results: dict[str, Any], out: Path) -> None:
    for said in (findings.page(results, out).split("<body>")[1], said_in_pages(results, out)):
        places = [
            re.search(f"{verdict}(</span>|\\*\\*) for", said) for verdict in ("refuted", "undecided", "supported")
        ]
        starts = [place.start() for place in places if place]
        assert len(starts) == 3
        assert starts == sorted(starts)
        assert starts[-1] < said.index("0.1")  # before any number
        assert re.search(r"refuted\S* for\s.*a\S*net\S* \(grid\)", said)


def test_a_verdict_that_nobody_has_is_said_to_be_nobodys(results: dict[str, Any], out: Path) -> None:
    for network in results["networks"].values():
        network["verdict"] = dict.fromkeys(VERDICTS, "supported")
    assert "refuted</span> for no network" in findings.page(results, out)
    said = said_in_pages(results, out)
    assert "**refuted** for no network." in said
    assert r"a\_net (every metric)," in said


def number(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000")


def test_every_measurement_is_in_the_tables(results: dict[str, Any], out: Path) -> None:
    """The page has all of them, and the section those of trained networks, and the others' means."""
    page, said = page_without_plots(results, out), said_in_pages(results, out)
    assert len(list(intervals(results))) > 250
    for one in intervals(results):
        assert f"{number(one['mean'])} <small>{number(one['low'])} to {number(one['high'])}</small>" in page
    for network in results["networks"].values():
        for measurement in (measurement for kind in RANDOM_SHARE for measurement in network[kind]["measurements"]):
            for rule in wording.RULES:
                own, uniform = (
                    measurement["means"][condition][rule]["mean"] for condition in ("own switches", "uniform")
                )
                assert f"{number(own)} → {number(uniform)}" in said
        trained = network["trained"]
        parts = [[measurement["losses"], measurement["means"]["center"]] for measurement in trained["measurements"]]
        for one in intervals([*parts, trained["bounds"], trained["failures"]]):
            assert f"{number(one['mean'])} ({number(one['low'])} to {number(one['high'])})" in said


def test_circumstances_are_said(results: dict[str, Any], out: Path) -> None:
    for said in (findings.page(results, out), said_in_pages(results, out)):
        for each in (
            "CIFAR-10 (JPEG)",
            "0123456789abcdef",
            "500 images",
            "400 for",
            "50 where",
            "2000 resamples",
            "seed 0",
            "attribkit 7.8.9, torch 2.99, commit 0a1b2c",
        ):
            assert each in said
        assert "no weights, &lt;alas&gt;" in said
        assert "unknown" in said  # the error on photographs without labels
    assert "python benchmarks/validation_page.py" in said


def test_what_is_undefined_is_said_in_a_word(results: dict[str, Any], out: Path) -> None:
    measurement = results["networks"]["a_net"]["trained"]["measurements"][0]
    measurement["losses"]["guided"] = measurement["means"]["uniform"]["guided"] = UNDEFINED
    measurement["losses"]["backprop"] |= {"mean": -0.0004, "undefined": 3}
    results["networks"]["a_net"]["trained"]["failures"]["cascade"]["guided"][0]["rank"] = UNDEFINED
    page = findings.page(results, out)
    assert "guided: undefined" in page.split("</svg>")[0]
    assert re.search(r"undefined\s+<small>37 undefined", page)
    said = said_in_pages(results, out)
    assert "→ undefined<br>undefined, 37 undefined |" in said
    assert "0.000 (" in said
    assert ", 3 undefined |" in said
    for each in (page, said):
        assert not re.search("None|nan|-0.000", each)


def test_names_make_no_markup(results: dict[str, Any], out: Path) -> None:
    page, (*both, images) = findings.page(results, out), validation_page.pages([(results, out)])
    said = "".join(both)
    for each in (page, said):
        assert "<b>_x" not in each
        assert "<map>" not in each
    assert "b|&lt;b&gt;_x_`&#34;" in page
    assert r'## b\|&lt;b&gt;\_x\_\`"' in said
    for table in re.findall(r"(?:^\|.*\n)+", said, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert all(re.fullmatch(r"[\w.-]+", name) for name in images)
    for name, data in images.items():
        if name.endswith(".svg"):
            assert "aria-label" in ElementTree.fromstring(data).attrib


def test_the_page_needs_no_network_and_its_tables_have_headers(results: dict[str, Any], out: Path) -> None:
    page = findings.page(results, out)
    assert "http" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert all("scope=" in head for head in re.findall("<th .*?>|<th>", page))
    assert page.count('role="img" aria-label="a_net: ') == 2


def test_a_plot_shows_an_interval_from_end_to_end(results: dict[str, Any]) -> None:
    """The axis has room for all of them, and the margin and zero are on it."""
    network = results["networks"]["a_net"]
    measurement = network["trained"]["measurements"][0]
    loss = measurement["losses"]["guided"] = {"mean": 0.5, "low": -0.35, "high": 1.0, "images": 500, "undefined": 0}
    plot = ElementTree.fromstring(plots.plots("a_net", network)["losses"])
    svg = {"": "http://www.w3.org/2000/svg"}
    group = next(
        one for one in plot.iterfind(".//g", svg) if one.findtext("title", "", svg).startswith("guided, source")
    )
    line, mark = group.findall("path", svg)
    low, high = (float(place) for place in re.findall(r"M([\d.]+),.*H([\d.]+)", line.attrib["d"])[0])
    mean = float(mark.attrib["transform"].split("(")[1].split(",")[0])
    zero = float(plot.find(".//line[@class='zero']", svg).attrib["x1"])
    margin = float(plot.find(".//line[@class='margin']", svg).attrib["x1"])
    assert 70 <= low < zero < margin < mean < high <= plots.RIGHT
    scale = (high - low) / (loss["high"] - loss["low"])
    assert [zero, margin, mean] == pytest.approx([low + 0.35 * scale, low + 0.45 * scale, low + 0.85 * scale], abs=0.2)


def loses(low: float, high: float, images: int = 500) -> dict[str, Any]:
    return {"mean": (low + high) / 2, "low": low, "high": high, "images": images, "undefined": 0}


@pytest.mark.parametrize(
    ("guided", "deconvnet", "said"),
    [
        (loses(0, 0.1), loses(0.11, 0.2), ""),
        (loses(0.11, 0.2), loses(0.11, 0.2), "guided loses more than the margin"),
        (loses(0, 0.2), loses(0.11, 0.2), "it is open whether guided loses more than the margin"),
        (loses(0, 0.1), loses(0.1, 0.2), "it is open whether the deconvnet loses more than the margin"),
        (loses(0, 0.1), loses(0, 0.1), "the deconvnet loses no more than the margin"),
        (loses(0.2, 0.3), loses(0, 0.1, images=19), "fewer than 20 images"),
        (UNDEFINED, loses(0.2, 0.3), "fewer than 20 images"),
    ],
)
def test_why(guided: dict[str, Any], deconvnet: dict[str, Any], said: str) -> None:
    means = {"own switches": {"deconvnet": loses(0.5, 0.6)}}
    measurement = {"means": means, "losses": {"guided": guided, "deconvnet": deconvnet}, "margin": 0.1}
    bounds = {"means": {"random map": loses(0, 0.1), "Sobel map": loses(0.5, 0.7), "nothing": UNDEFINED}}
    assert wording.why(measurement, bounds) == wording.why(measurement, None) == said
    means["own switches"]["deconvnet"] = loses(0.05, 0.15)
    has_nothing = "no more than" in said
    assert ("it is no better than the random map" in wording.why(measurement, bounds)) == has_nothing


def test_pictures_come_along(results: dict[str, Any], out: Path, document: Path) -> None:
    found = re.findall(r'<img src="data:image/png;base64,(.*?)" alt="(.*?)">', findings.page(results, out))
    assert [(base64.b64decode(data), alt) for data, alt in found] == [(PICTURE, "A &lt;map&gt; of [it] | here")]
    validation_page.write(document, [out])
    assert (document.parent / "images" / "validation-a-class.png").read_bytes() == PICTURE
    tables = document.with_name("validation-tables.md")
    shown = re.findall(r"\]\(images/(.*?)\)", tables.read_text())
    assert sorted(shown) == sorted(path.name for path in (document.parent / "images").iterdir())
    assert len(shown) == 5  # with two plots of each network


def test_only_what_is_between_the_lines_is_replaced_and_always_by_the_same(out: Path, document: Path) -> None:
    validation_page.write(document, [out])
    first = document.read_bytes()
    assert first.startswith(f"{BEFORE}<!-- findings -->\n\nThe claim".encode())
    assert first.endswith(f"\n<!-- /findings -->{AFTER}".encode())
    assert b"old" not in first
    images = {path: path.read_bytes() for path in document.parent.rglob("images/*")}
    validation_page.write(document, [out])
    assert document.read_bytes() == first
    assert {path: path.read_bytes() for path in document.parent.rglob("images/*")} == images


def test_the_page_is_the_same_each_time(results: dict[str, Any], out: Path) -> None:
    assert findings.page(results, out) == findings.page(copy.deepcopy(results), out)


def test_several_runs_are_one_section(tmp_path: Path, out: Path, document: Path) -> None:
    """A network of both is an error, and so are two pictures of one name."""
    validation_page.write(document, [out, kept(tmp_path / "photographs", made_up("other"))])
    tables = document.with_name("validation-tables.md").read_text()
    assert all(f"## {name}" in tables for name in (r"a\_net", r"b\|", "other"))
    before = document.read_bytes()
    for name in ("a_net", "another"):
        with pytest.raises(ValueError, match=r"two of .* name (a_net|validation-a-class.png)$"):
            validation_page.write(document, [out, kept(tmp_path / name, made_up(name))])
    assert document.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- findings -->\n",
        "<!-- /findings -->\n<!-- findings -->\n",
        "<!-- findings -->\n<!-- findings -->\n<!-- /findings -->\n",
        "x <!-- findings -->\n<!-- /findings -->\n",
    ],
)
def test_a_document_without_the_lines_is_left_alone(text: str, out: Path, document: Path) -> None:
    document.write_text(text)
    with pytest.raises(ValueError, match="needs the line <!-- findings -->"):
        validation_page.write(document, [out])
    assert document.read_text() == text
    assert list(document.parent.iterdir()) == [document]


def test_the_command(out: Path, document: Path) -> None:
    """An error is one line."""
    command = [sys.executable, validation_page.__file__, str(document), str(out)]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b""
    assert b"**refuted**" in document.read_bytes()
    (out / "figures" / "a class.png").unlink()
    for words in ([], [str(document)], [str(document), str(out)], [str(out / "results.json"), str(out)]):
        with pytest.raises(SystemExit, match=r"^.+$"):
            validation_page.main(words)
