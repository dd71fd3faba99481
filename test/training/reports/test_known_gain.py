# SPDX-License-Identifier: Apache-2.0
"""What a report quotes of the docs: the row as it stands there, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.reports.known_gain import quote_gain
from training.run.config import load_config

ROOT = Path(__file__).resolve().parents[3]
PAGE = """# Page

### In hours

| | mIoU | gain |
|---|---|---|
| SRKD | 99 % | +9 |

### In minutes: 3 steps

| | mIoU | gain |
|---|---|---|
| student alone | 10 % | |
| SRKD | 12 % | +2 +- 1 |

```bash
python training/compare.py --cfg config/srkd.yaml --seeds 3
```

### Else

| PVKD | 14 % | +4 |
"""


def test_a_row_is_quoted_with_its_command(tmp_path: Path) -> None:
    page = tmp_path / 'page.md'
    page.write_text(PAGE)
    assert quote_gain('SRKD', page) == (
        'SRKD 12 %, student alone 10 %; gain +2 +- 1 points with its standard error, by seed '
        f'({tmp_path.name}/page.md; python training/compare.py --cfg config/srkd.yaml --seeds 3)'
    )
    assert quote_gain('PVKD', page) is None
    assert quote_gain('SRKD', tmp_path / 'elsewhere.md') is None


@pytest.mark.parametrize('name', ['srkd', 'pvkd'])
def test_a_configuration_names_a_row_that_is_there_and_means_it_as_it_is(name: str) -> None:
    path = ROOT / 'config' / f'{name}.yaml'
    row = load_config(path).known_gain
    assert row == name.upper()
    assert (quote_gain(row) or '').startswith(f'{row} ')
    assert load_config(path, ['seed=1', 'data.workers=1']).known_gain == row
    assert load_config(path, ['optim.steps=3']).known_gain is None  # another run than measured
