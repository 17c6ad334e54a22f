"""``python -m benchmarks.child FUNCTION JSON``: run one function of :mod:`benchmarks.contenders` or another module, measured."""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.measure import measured, tell

if __name__ == "__main__":
    module, _, function = sys.argv[1].partition(":")
    call = getattr(importlib.import_module(module), function)
    arguments = json.loads(sys.argv[2])
    tell(measured(lambda: call(**arguments)))
