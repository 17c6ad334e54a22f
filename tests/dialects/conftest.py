"""These tests need an environment of their own: `make dialects`."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("fakesnow") else ["test_*.py"]
