"""README's first example runs as printed, and is as short as it says."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_ten_line_example_runs_as_printed(capsys):
    example = re.search(r"## Ten lines\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    exec(compile(example, str(README), "exec"), {})
    assert re.fullmatch(
        r"moved \d+% of the rows, by \d\.\d\d in L1 on average\n", capsys.readouterr().out
    )
