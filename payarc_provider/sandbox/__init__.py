"""A stand-in for PayArc's customer API, for demos and tests. It speaks real HTTP on the loopback interface.

>>> with SandboxServer() as sandbox:
...     sandbox.url, sandbox.token

From a shell: ``python -m payarc_provider.sandbox --port 8765``. In tests: the fixture in
:mod:`payarc_provider.sandbox.pytest_plugin`.

The sandbox answers as PayArc is known to answer. Fault rules (:mod:`payarc_provider.sandbox.faults`) make single
requests fail; settings (:mod:`payarc_provider.sandbox.settings`) change how it behaves altogether. Tests can read back
every customer and the request that created it. It needs the extra ``sandbox`` and does not import Airflow.
"""

from payarc_provider.sandbox.server import SandboxServer
from payarc_provider.sandbox.tokens import SANDBOX_TOKEN, make_token

__all__ = ["SANDBOX_TOKEN", "SandboxServer", "make_token"]
