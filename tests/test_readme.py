"""README says what is so: its first example runs as printed, its times are the results'."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_ten_line_example_runs_as_printed(capsys):
    example = re.search(r"## Ten lines\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    exec(compile(example, str(README), "exec"), {})
    assert re.fullmatch(r"changed by \d\.\d\d in L1 on average\n", capsys.readouterr().out)


def test_the_times_are_those_of_the_newest_results():
    text = README.read_text()
    script = README.parent / "benchmarks" / "readme_times.py"
    assert "CPU times" in text
    assert "GPU times" in text
    assert runpy.run_path(str(script))["rewritten"](text) == text
