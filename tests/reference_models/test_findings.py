"""The page and the section say what results.json says, what speaks against the claim first."""

from __future__ import annotations

import base64
import copy
import csv
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

HOSTILE = 'b|<b>_x_`"'
VERDICTS = {"source retrieval": "supported", "occlusion": "undecided", "grid": "refuted"}
PICTURE = b"\x89PNG, or nearly"
CAPTION = "A <map> of [it] | here"
BEFORE, AFTER = "# Title \n\nA `<!-- findings -->` in a line.\n", "\n\nafter, without an end"
DOCUMENT = f"{BEFORE}<!-- findings -->\nold\n<!-- /findings -->{AFTER}"
UNDEFINED = {"mean": None, "low": None, "high": None, "images": 0, "undefined": 37}
RULES = ("backprop", "deconvnet", "guided")


def made_up(*names: str) -> dict[str, Any]:
    """Results in which no two means are the same."""
    numbers = count(1)

    def interval() -> dict[str, Any]:
        mean = next(numbers) / 1000
        return {"mean": mean, "low": mean - 0.0301, "high": mean + 0.0203, "images": 500, "undefined": 0}

    def by_rule(*more: str) -> dict[str, Any]:
        return {rule: interval() for rule in (*RULES, *more)}

    def by_condition(*others: str) -> dict[str, Any]:
        return {condition: by_rule() for condition in ("own switches", "uniform", *others)}

    def measurement(metric: str, verdict: str | None) -> dict[str, Any]:
        return {
            "metric": metric,
            "unit": "last",
            "without": "uniform",
            "margin": 0.1,
            "verdict": verdict,
            "losses": by_rule(),
            "difference": interval(),
            "better": interval(),
            "above": {rule: {"random map": interval()} for rule in ("guided", "deconvnet")},
            "sentences": {"guided keeps": "holds", "deconvnet loses": "holds", "guided is better": "open"},
        }

    def weights(kind: str) -> dict[str, Any]:
        measured: dict[str, Any] = {
            "errors": {"as it is": {"error": None, "changed": 0.0}},
            "measurements": [
                measurement(metric, VERDICTS[metric] * (kind == "trained") or None) for metric in VERDICTS
            ],
            "means": [],
            "zeros": {"grid": {"class": {"uniform": {"backprop": 0, "deconvnet": 0, "guided": 41}}}},
        }
        for metric in VERDICTS:
            cells = by_condition(*["center"] * (kind == "trained"))
            cells["own switches"] |= {"random map": interval()}
            measured["means"].append({"metric": metric, "unit": "last", "means": cells})
        if kind != "upper third random":
            recognised = by_condition()
            recognised["own switches"] |= {"random map": interval(), "the image itself": interval()}
            measured |= {"lattice": {"class": by_condition()}, "recognised": recognised, "donors": {"last": by_rule()}}
        if kind == "trained":
            stages = {rule: [{"layer": "c1", "rank": interval(), "ssim": interval()}] for rule in wording.RULES}
            failures = {"class sensitivity": by_condition(), "signal convergence": by_condition()}
            measured["failures"] = failures | {"cascade": stages}
            measured["strides"] = [{"layer": "c2", "renamed": 12.5, "losses": by_rule()}]
        return measured

    kinds = ("trained", "untrained", "upper third random")
    networks: dict[str, Any] = {}
    for name in names:
        about = {"compared": ["uniform"], "layers": {"middle": "c1", "last": "c1"}, "renamed": 0.0, "images": 500}
        networks[name] = about | {kind: weights(kind) for kind in kinds}
        networks[name]["primary"] = networks[name]["trained"]["measurements"][0]
    return {
        "settings": {"images": 500, "steps": 10, "resamples": 2000, "seed": 0, "device": "cpu"},
        "images": {"drawn": 480, "candidates": 9000, "asked": 400, "paired": 200, "compared": 50},
        "versions": {"attribkit": "7.8.9", "torch": "2.99"},
        "commit": "0a1b2c",
        "data": {"source": "CIFAR-10 (JPEG)", "digest": "0123456789abcdef"},
        "margins": dict.fromkeys(VERDICTS, 0.1),
        "primary": {"metric": "source retrieval", "unit": "last"},
        "networks": networks,
        "pictures": [{"file": f"figures/{names[0][0]} class.png", "caption": CAPTION, "network": names[0]}],
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


def page_without_plots(results: dict[str, Any], out: Path) -> str:
    return re.sub("<svg.*?</svg>", "", findings.page(results, out), flags=re.DOTALL)


def outcomes(*verdicts: str) -> dict[str, Any]:
    results = made_up(*(f"net {index}" for index in range(len(verdicts))))
    for network, verdict in zip(results["networks"].values(), verdicts, strict=True):
        network["primary"]["verdict"] = verdict
    networks: dict[str, Any] = results["networks"]
    return networks


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (
            ["supported"],
            "Yes. By the source retrieval of the last layer's unit the claim is supported in 1 of 1 network.",
        ),
        (["refuted", "refuted"], "No. By"),
        (["refuted", "supported"], "In some networks, and not in others. By"),
        (["supported", "undecided"], "Yes, as far as it is decided. By"),
        (["refuted", "undecided"], "No, as far as it is decided. By"),
        (["undecided"], "Not decided. By"),
        (["cannot tell", "not judged"], "Not decided. By"),
        (["cannot tell", "supported"], "Yes. By"),
    ],
)
def test_the_headline_follows_from_the_primary_outcomes_whichever_way_they_fall(verdicts: list[str], said: str) -> None:
    first, difference, better = wording.headline(outcomes(*verdicts))
    assert first.startswith(said)
    for verdict in set(verdicts):
        assert f"{verdict} in {verdicts.count(verdict)}" in first
    assert "better" not in difference
    assert "in 0 of" in better


def test_the_headline_counts_the_main_figure_and_the_third_sentence() -> None:
    networks = outcomes("supported", "refuted", "not judged")
    first, second, third = networks.values()
    first["primary"]["difference"] |= {"mean": 0.7, "low": 0.6, "high": 0.8}
    second["primary"]["difference"] |= {"mean": -0.2, "low": -0.3, "high": -0.1}
    third["primary"]["difference"] |= {"mean": 0.9, "low": 0.8, "high": 1.0}  # two networks say nothing
    first["primary"]["sentences"]["guided is better"] = "holds"
    second["primary"]["sentences"]["guided is better"] = "fails"
    _, difference, better = wording.headline(networks)
    assert "more than guided backprop in 1 of 2 networks, and less in 1: from -0.200 to 0.700 more" in difference
    assert "in 1 of 2 networks, no higher in 1, and in 0" in better
    assert wording.headline({}) == ["The primary outcome was not asked for."]


def test_what_speaks_against_the_claim_is_counted_first() -> None:
    said = wording.tally(outcomes("supported", "supported"))
    assert said == "6 comparisons, of which 2 are primary: 2 refuted, 2 undecided, 2 supported"


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("all_cnn_c", "All-CNN-C"),
        ("model_a", "Model A"),
        ("convpool_cnn_b=runs/convpool_cnn_b-quick-1/x.safetensors", "ConvPool-CNN-B (convpool_cnn_b-quick-1)"),
        ("packaged:squeezenet1_1", "SqueezeNet 1.1"),
        ("examples/efficientnet_lite0.py:build", "EfficientNet-Lite0"),
        ("timm:resnet50", "timm:resnet50"),
        (HOSTILE, HOSTILE),
    ],
)
def test_networks_are_named_as_in_the_paper(name: str, called: str) -> None:
    assert wording.title(name) == called


def number(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000")


def pages(results: dict[str, Any], out: Path) -> str:
    """The section, and the pages beside it."""
    said, beside = validation_page.section([(results, out)])
    return said + "".join(data.decode() for name, data in beside.items() if name.endswith(".md"))


def test_every_measurement_is_in_the_tables(results: dict[str, Any], out: Path) -> None:
    """On the page, and on those that the section links to, but for floors and what is kept for verdicts."""
    page, said = page_without_plots(results, out), pages(results, out)
    for network in results["networks"].values():
        trained = network["trained"]
        measured = [[each["losses"], each["difference"], each["better"]] for each in trained["measurements"]]
        rest = [network[kind]["lattice"] for kind in ("trained", "untrained")]
        rest += [trained["donors"], trained["failures"]["class sensitivity"], trained["strides"][0]["losses"]]
        means = [{rule: row["means"]["uniform"][rule] for rule in RULES} for row in trained["means"]]
        for one in intervals([*measured, *rest, *means]):
            ends = f"{number(one['low'])} to {number(one['high'])}"
            assert f"{number(one['mean'])} <small>{ends}</small>" in page
            assert f"{number(one['mean'])} ({ends})" in said
    assert "41 by guided (grid, class, uniform)" in said


def test_every_comparison_is_a_line_for_machines(results: dict[str, Any], out: Path) -> None:
    _, beside = validation_page.section([(results, out)])
    head, *lines = list(csv.reader(beside["validation/measurements.csv"].decode().splitlines()))
    assert len(lines) == 6
    row = dict(zip(head, lines[0], strict=True))
    first = results["networks"]["a_net"]["trained"]["measurements"][0]
    assert (row["network"], row["metric"], row["verdict"]) == ("a_net", "source retrieval", "supported")
    assert float(row["difference low"]) == pytest.approx(first["difference"]["low"], abs=1e-4)


def test_circumstances_are_said(results: dict[str, Any], out: Path) -> None:
    """The images that there were, and not those that were asked for."""
    for said in (findings.page(results, out), pages(results, out)):
        for each in (
            "CIFAR-10 (JPEG)",
            "0123456789abcdef",
            "480 images",
            "400 for",
            "200 in pairs",
            "50 where",
            "among 9000",
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
    measurement["losses"]["guided"] = UNDEFINED
    measurement["losses"]["backprop"] |= {"mean": -0.0004, "undefined": 3}
    results["networks"]["a_net"]["trained"]["failures"]["cascade"]["guided"][0]["rank"] = UNDEFINED
    page, said = findings.page(results, out), pages(results, out)
    assert "guided: undefined" in page.split("</svg>")[0]
    assert re.search(r"undefined\s+<small>37 undefined", page)
    assert "undefined, 37 undefined |" in said
    assert ", 3 undefined |" in said
    for each in (page, said):
        assert not re.search("None|nan|-0.000", each)


def test_names_make_no_markup(results: dict[str, Any], out: Path) -> None:
    page, said = findings.page(results, out), pages(results, out)
    _, beside = validation_page.section([(results, out)])
    for each in (page, said):
        assert "<b>_x" not in each
        assert "<map>" not in each
    assert "b|&lt;b&gt;_x_`&#34;" in page
    assert r'# b\|&lt;b&gt;\_x\_\`"' in said
    for table in re.findall(r"(?:^\|.*\n)+", said, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert all(re.fullmatch(r"(images|validation)/[\w.-]+", name) for name in beside)
    for name, data in beside.items():
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
        ("holds", "holds", ""),
        ("fails", "holds", "guided loses more than the margin"),
        ("open", "holds", "it is open whether guided loses more than the margin"),
        ("holds", "open", "it is open whether the deconvnet loses more than the margin"),
        ("holds", "fails", "the deconvnet loses no more than the margin"),
        ("fails", "fails", "guided loses more than the margin; the deconvnet loses no more than the margin"),
        (
            *("holds", "cannot tell"),
            "the deconvnet has nothing to lose: with switches it is no better than the centred Gaussian",
        ),
        ("cannot tell", "holds", "guided has nothing to lose: with switches it is no better than the random map"),
    ],
)
def test_why(results: dict[str, Any], guided: str, deconvnet: str, said: str) -> None:
    network = results["networks"]["a_net"]
    each = network["primary"]
    each["sentences"] = {"guided keeps": guided, "deconvnet loses": deconvnet, "guided is better": "holds"}
    each["above"] = {
        "guided": {"random map": loses(0, 0.1), "centred Gaussian": loses(0.5, 0.6)},
        "deconvnet": {"random map": loses(0.2, 0.3), "centred Gaussian": loses(0, 0.1)},
    }
    assert wording.why(each, network) == said
    each["better"]["images"] = 19
    assert wording.why(each, network) == "fewer than 20 images"
    each["verdict"], network["renamed"] = "not judged", 92.5
    assert wording.why(each, network) == "surgery renames 92.5% of the images, more than 25%"


def test_pictures_come_along(results: dict[str, Any], out: Path, document: Path) -> None:
    found = re.findall(r'<img src="data:image/png;base64,(.*?)" alt="(.*?)">', findings.page(results, out))
    assert [(base64.b64decode(data), alt) for data, alt in found] == [(PICTURE, "A &lt;map&gt; of [it] | here")]
    validation_page.write(document, [out])
    assert (document.parent / "images" / "validation-a-class.png").read_bytes() == PICTURE
    written = [document, *(document.parent / "validation").glob("*.md")]
    shown = {name for page in written for name in re.findall(r"\]\((?:\.\./)?images/(.*?)\)", page.read_text())}
    assert sorted(shown) == sorted(path.name for path in (document.parent / "images").iterdir())
    assert len(shown) == 5  # with two plots of each network


def test_only_what_is_between_the_lines_is_replaced_and_always_by_the_same(out: Path, document: Path) -> None:
    validation_page.write(document, [out])
    first = document.read_bytes()
    assert first.startswith(f"{BEFORE}<!-- findings -->\n\n**Yes. By".encode())
    assert first.endswith(f"\n<!-- /findings -->{AFTER}".encode())
    assert b"old" not in first
    images = {path: path.read_bytes() for path in document.parent.rglob("*/*")}
    validation_page.write(document, [out])
    assert document.read_bytes() == first
    assert {path: path.read_bytes() for path in document.parent.rglob("*/*")} == images


def test_the_page_is_the_same_each_time(results: dict[str, Any], out: Path) -> None:
    assert findings.page(results, out) == findings.page(copy.deepcopy(results), out)


def test_several_runs_are_one_section(tmp_path: Path, out: Path, document: Path) -> None:
    """A network of both is an error, and so are two pictures of one name."""
    validation_page.write(document, [out, kept(tmp_path / "photographs", made_up("other"))])
    assert all(f"| [{name}" in document.read_text() for name in (r"a\_net", r"b\|", "other"))
    before = document.read_bytes()
    for name in ("a_net", "another"):
        with pytest.raises(ValueError, match=r"two of .* name (a_net|images/validation-a-class.png)$"):
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
    assert b"2 refuted" in document.read_bytes()
    (out / "figures" / "a class.png").unlink()
    for words in ([], [str(document)], [str(document), str(out)], [str(out / "results.json"), str(out)]):
        with pytest.raises(SystemExit, match=r"^.+$"):
            validation_page.main(words)
