"""The code on the documentation's pages runs as printed, from top to bottom."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from aeppt import load_defense
from aeppt.defenses import OutputDefense

DOCS = Path(__file__).parents[1] / "docs"


def run_page(page: Path) -> dict[str, object]:
    """Run the page's blocks of Python in order; what they have defined in the end."""
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": page.stem}
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        # Lines above it, so that a traceback names the page's own line.
        above = "\n" * text[: block.start(1)].count("\n")
        exec(compile(above + block[1], str(page), "exec"), names)
    return names


def test_the_first_page_runs() -> None:
    assert "protected" in run_page(DOCS / "index.md")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_page_about_wrappers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded: Any = run_page(DOCS / "wrappers.md")["loaded"]
    assert [spec.name for spec in loaded.inputs] == ["inputs"]


@pytest.mark.slow
def test_the_tutorial_runs_and_the_page_about_keys_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(DOCS / "tutorial.md")
    printed = capsys.readouterr().out
    assert "correctness" in printed
    assert "mean L1 change" in printed
    assert "<html" in Path("report.html").read_text(encoding="utf-8")
    assert load_defense("defense.safetensors").n_features_in_ == 10
    Path("production.key").write_text(secrets.token_hex(32))
    assert isinstance(run_page(DOCS / "keys.md")["defense"], OutputDefense)
