"""What may be shown of a study on photographs that may not be."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import free_pictures
import numpy as np

from attribkit.reference_models.switch_study import figures, subjects
from attribkit.reference_models.switch_study.testset import TestSet

NETWORK = "strided_cnn_c"


def test_rules_stand_side_by_side_on_the_pictures_given_and_no_other_photograph_is_left(tmp_path: Path) -> None:
    out, new, photographs = tmp_path / "out", tmp_path / "new", [tmp_path / "b.png", tmp_path / "a.png"]
    (out / "figures").mkdir(parents=True)
    names = [f"figures/{NETWORK}-{stem}.png" for stem in ("lower-layers-conv1", "strongest-patches-conv5")]
    for name in names:
        (out / name).write_bytes(name.encode())
    pictures = [{"file": name, "caption": "It shows.", "network": NETWORK} for name in names]
    found = {"networks": {NETWORK: {"renamed": 0.5}}, "pictures": pictures, "settings": {"seed": 3}}
    (out / "results.json").write_text(json.dumps(found))
    colours = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    for path, colour in zip(photographs, colours, strict=True):
        cv2.imwrite(str(path), colour)

    free_pictures.copied(out, new, photographs)

    copied = json.loads((new / "results.json").read_text())
    shown = copied.pop("pictures")
    assert copied == {key: value for key, value in found.items() if key != "pictures"}
    drawn = [f"figures/{NETWORK}-side-by-side-{kind}.png" for kind in ("last", "class")]
    assert [each["file"] for each in shown] == [names[0], *drawn]
    assert (new / names[0]).read_bytes() == names[0].encode()
    assert sorted(path.name for path in (new / "figures").iterdir()) == sorted(
        Path(each["file"]).name for each in shown
    )
    subject = subjects.prepared(NETWORK, "trained", subjects.read(NETWORK), TestSet(tuple(photographs), ""), 0)
    expected = figures.side_by_side(subject, "class", [0, 1])
    assert (cv2.imread(str(new / drawn[1]))[..., ::-1] == expected).all()
    assert shown[2]["caption"].startswith(f"{NETWORK}. The class that the network names, in photographs that are free:")
