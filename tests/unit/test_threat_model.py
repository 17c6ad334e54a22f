"""``docs/threat_model.md`` names tests that exist, so that none of its claims loses its proof unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "docs" / "threat_model.md").read_text()
NAMED = set(re.findall(r"`(test_\w+)`", TEXT))


def test_every_test_that_the_threat_model_names_exists():
    tests = "\n".join(file.read_text() for file in (CHECKOUT / "tests").rglob("test_*.py"))
    assert len(NAMED) > 40
    assert {name for name in NAMED if not re.search(rf"^def {name}\(", tests, re.MULTILINE)} == set()
