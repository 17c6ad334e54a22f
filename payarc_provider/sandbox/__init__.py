"""A stand-in for PayArc's customer API, for demos and tests. It speaks real HTTP on the loopback interface.

>>> with SandboxServer() as sandbox:
...     sandbox.url, sandbox.token

From a shell: ``python -m payarc_provider.sandbox --port 8765``. In tests: the fixture of
:mod:`payarc_provider.sandbox.pytest_plugin`.

It answers as PayArc is known to answer, and it misbehaves on request: single requests by rules
(:class:`~payarc_provider.sandbox.faults.FaultRule`), everything that lasts by settings
(:class:`~payarc_provider.sandbox.settings.Settings`). What it made, and which request made it, can be read back. Needs
the extra ``sandbox``; knows nothing of Airflow.
"""

from payarc_provider.sandbox.server import SandboxServer
from payarc_provider.sandbox.tokens import SANDBOX_TOKEN, make_token

__all__ = ["SANDBOX_TOKEN", "SandboxServer", "make_token"]
