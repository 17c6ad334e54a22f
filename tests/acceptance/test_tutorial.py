"""The tutorial works from its first to its last line, in an empty folder."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pages

PAGE = "docs/tutorial.md"


def test_it_works_as_it_says(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    script = "trap 'kill %1' EXIT\n" + pages.script(PAGE)
    with (tmp_path / "output.txt").open("w+") as file:
        command = ["bash", "-ec", script.replace("8765", port)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=file, stderr=file, check=False)
        file.seek(0)
        output = re.sub(r"\x1b\[[\d;]*m", "", file.read())

    assert done.returncode == 0, output[-5000:]
    assert "2 created, 0 known, 1 rejected" in output
    assert "1 record: phone must have at most 11 digits (key 3)" in output
    [shown] = [block.text.strip() for block in pages.to_run(PAGE, "text")]
    assert re.search(re.sub(r"in [\d.]+ s", r"in [\\d.]+ s", shown), output)
    assert "'received': 3" in output.splitlines()[-1]
    assert "'created': 3" in output.splitlines()[-1]
