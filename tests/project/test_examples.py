"""Every file in `examples` runs, as its reader would run it."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = {  # what each says, and what it leaves behind
    "batch_job.py": ("cat: tiger cat", ["maps/cat.npz"]),
    "captum_script.py": ("NoiseTunnel takes it", []),
    "custom_activation.py": ("2 of 2 sites swapped", []),
    "explain_cat.py": ("33 of 33 sites swapped", ["cat-guided.png", "cat-deconvnet.png", "cat-backprop.png"]),
    "training_loop.py": ("4 of 4 sites swapped", [f"epoch-{epoch}.png" for epoch in range(1, 6)]),
}


def run(script: str, at: Path) -> str:
    command = [sys.executable, str(EXAMPLES / script)]
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == SCRIPTS.keys()
    told = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name not in told] == ["README.md"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script: str, tmp_path: Path) -> None:
    says, files = SCRIPTS[script]
    assert says in run(script, tmp_path)
    assert [file for file in files if not (tmp_path / "attribkit-out" / file).stat().st_size] == []


def test_a_batch_job_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """What is there stays; what is missing is made."""
    run("batch_job.py", tmp_path)
    made = tmp_path / "attribkit-out" / "maps" / "cat.npz"
    assert np.load(made)["guided"].shape == (3, 224, 224)
    before = made.stat().st_mtime_ns
    assert run("batch_job.py", tmp_path) == ""
    assert made.stat().st_mtime_ns == before


def pictures_of(notebook: Any) -> list[Any]:
    """The pictures that its cells show, in order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    files = [base64.b64decode(output["data"]["image/png"]) for output in outputs if "image/png" in output["data"]]
    return [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR).astype(float) for file in files]


def test_a_notebook_runs(tmp_path: Path) -> None:
    """Every cell, and four of them show the very picture that is stored in it."""
    for file in EXAMPLES.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    notebook = nbformat.read(tmp_path / "notebook.ipynb", as_version=4)
    stored = pictures_of(notebook)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(stored) == 4
    for before, now in zip(stored, pictures_of(notebook), strict=True):
        assert before.shape == now.shape
        assert np.abs(before - now).mean() < 2  # processors differ in late digits
