"""The tutorial's code runs as printed, from top to bottom, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aeppt import load_defense

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"


@pytest.mark.slow
def test_every_block_of_code_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = TUTORIAL.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "tutorial"}
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        # Lines above it, so that a traceback names the page's own line.
        above = "\n" * text[: block.start(1)].count("\n")
        exec(compile(above + block[1], str(TUTORIAL), "exec"), names)
    printed = capsys.readouterr().out
    assert "correctness" in printed
    assert "mean L1 change" in printed
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert load_defense("defense.safetensors").n_features_in_ == 10
