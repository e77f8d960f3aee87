"""The snippets of docs/wrappers.md run, one after the other, as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "wrappers.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_snippets_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile("\n".join(snippets), str(PAGE), "exec"), names)
    assert [spec.name for spec in names["loaded"].inputs] == ["inputs"]
