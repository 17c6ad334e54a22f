"""The page on testing DAGs works from its first to its last line, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pages


def test_it_works_as_it_says(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    command = ["bash", "-ec", pages.script("docs/testing.md")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert re.findall(r"\d+ passed", done.stdout) == ["1 passed", "3 passed"]
