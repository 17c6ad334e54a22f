"""drt with its REST destination: a sync for each share of the table, run in parallel by threads."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from drt.cli.main import app

from benchmarks.contenders import default_logs

_PROJECT = """\
name: bench
version: "0.1"
profile: crm
"""
_PROFILE = """\
crm:
  type: sqlite
  database: {crm}
"""
_LEDGER = """\
state:
  backend: warehouse
  connection_profile: ledger
  idempotency: true
"""
_LEDGER_PROFILE = """\
ledger:
  type: postgres
  host: {host}
  dbname: {schema}
  user: {login}
"""
_SYNC = """\
name: share_{share}
model: "SELECT {cursor}, name, email, description, phone, country FROM people WHERE id % {shares} = {share} ORDER BY 1"
destination:
  type: rest_api
  url: "{url}/customers"
  method: POST
  headers: {{Content-Type: application/json}}
  body_template: |
    {{"name": {{{{ row.name | tojson }}}}, "email": {{{{ row.email | tojson }}}},
     "description": {{{{ row.description | tojson }}}}, "phone": {{{{ row.phone | tojson }}}},
     "country": {{{{ row.country | tojson }}}}}}
  auth: {{type: bearer, token_env: BENCH_PAYARC_TOKEN}}
  native_idempotency_key: "{key}"
sync:
  idempotency_key: "{key}"
  mode: incremental
  cursor_field: {cursor}
  batch_size: {batch_size}
  rate_limit: {{requests_per_second: {per_second}}}
  retry: {{max_attempts: 30, max_backoff: {most}}}
  on_error: fail
"""


def run(
    url: str,
    token: str,
    crm: str,
    state: str,
    threads: int,
    limit: list[float] | None,
    database: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """``drt run --threads N`` for the records that are new since the last run.

    :param database: a PostgreSQL database for its ledger, which notes every record that it has delivered
    """
    return _run("id", "{{ row.id }}", url, token, crm, state, threads, limit, database)


def change(url: str, token: str, crm: str, state: str, threads: int, limit: list[float] | None) -> dict[str, Any]:
    """The same for the records that have changed. Its REST destination has one URL for all, so it POSTs them, too."""
    return _run("updated_at", "{{ row.email }}", url, token, crm, state, threads, limit)


def _run(
    cursor: str,
    key: str,
    url: str,
    token: str,
    crm: str,
    state: str,
    threads: int,
    limit: list[float] | None,
    database: dict[str, Any] | None = None,
) -> dict[str, Any]:
    home = Path(state)
    (home / "syncs").mkdir(exist_ok=True)
    (home / ".drt").mkdir(exist_ok=True)
    profiles = _PROFILE.format(crm=crm)
    if database:
        profiles += _LEDGER_PROFILE.format(**database)
    (home / "drt_project.yml").write_text(_PROJECT + (_LEDGER if database else ""))
    (home / ".drt" / "profiles.yml").write_text(profiles)
    shares = 1 if limit else threads  # its limiter counts per sync
    per_second = limit[0] / limit[1] if limit else 100_000
    for share in range(shares):
        text = _SYNC.format(
            share=share,
            shares=shares,
            url=url,
            cursor=cursor,
            key=key,
            per_second=per_second,
            batch_size=1 if database else 100,
            most=limit[1] if limit else 5,
        )
        (home / "syncs" / f"share_{share}.yml").write_text(text)
    os.environ |= {"HOME": state, "BENCH_PAYARC_TOKEN": token, "DRT_TELEMETRY": "false", "DO_NOT_TRACK": "1"}
    os.chdir(home)
    command = ["run", *([] if default_logs() else ["--quiet"]), "--threads", str(threads)]
    sys.argv = ["drt", *command]  # it writes its command line to a file, and the child's has the token
    code = app(command, standalone_mode=False)
    if code:
        raise SystemExit(f"drt ended with {code}")
    return {}
