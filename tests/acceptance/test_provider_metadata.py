"""What an installed Airflow knows about this provider. Runs on every supported Airflow."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from airflow.providers.common.compat.sdk import task

from payarc_provider import __version__
from payarc_provider.decorators.customers import payarc_customers_task
from payarc_provider.get_provider_info import CONN_FIELDS, get_provider_info
from payarc_provider.hooks.payarc import PayarcHook

_version = tuple(map(int, version("apache-airflow").split(".")[:2]))
AIRFLOW_3 = _version >= (3, 0)
HAS_COMMANDS = _version >= (3, 2)
LABELS = {
    "host": "Base URL",
    "password": "Access token",
    "environment": "Environment",
    "account": "Account",
    "timeout": "Timeout (seconds)",
    "verify": "Verify TLS",
}

# What the connection form is drawn from: since 3.0 the UI's own service, before that the providers' manager.
FORM_3 = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

(form,) = [form for form in HookMetaService.hook_meta_data() if form.connection_type == "payarc"]
form = form.model_dump()
standard = {name: field for name, field in form["standard_fields"].items() if field}
print(json.dumps({
    "name": form["hook_name"],
    "hidden": [name for name, field in standard.items() if field["hidden"]],
    "labels": {name: field["title"] for name, field in standard.items() if field["title"]}
    | {name: field["schema"]["title"] for name, field in form["extra_fields"].items()},
}))
"""
FORM_2 = """
import json
from airflow.providers_manager import ProvidersManager

manager = ProvidersManager()
widgets = manager.connection_form_widgets
behaviour = manager.field_behaviours["payarc"]
prefix = "extra__payarc__"
print(json.dumps({
    "name": manager.hooks["payarc"].hook_name,
    "hidden": [{"schema": "url_schema"}.get(name, name) for name in behaviour["hidden_fields"]],
    "labels": behaviour["relabeling"]
    | {name.removeprefix(prefix): str(widget.field.args[0])
       for name, widget in widgets.items() if name.startswith(prefix)},
}))
"""

# Every module, in a process that has imported none of them yet, with what is an error in all tests.
IMPORT_ALL = """
import importlib, json, pkgutil, warnings
for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
    warnings.filterwarnings("error", category=category, module="payarc_provider")
import payarc_provider

imported = []
for module in pkgutil.walk_packages(payarc_provider.__path__, "payarc_provider."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
            imported.append(module.name)
        except ModuleNotFoundError as missing:  # of what this Airflow does not have, as Airflow 2 has no FastAPI
            if (missing.name or "").startswith("payarc_provider"):
                raise
print(json.dumps(imported))
"""


# Airflow's command line, each time as if it were typed; one process, because it takes seconds to start.
COMMANDS = """
import contextlib, io, json, sys
from airflow.__main__ import main

said = {}
for command in sys.argv[1:]:
    sys.argv = ["airflow", *command.split()]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    said[command] = out.getvalue()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def commands() -> Any:
    """The output of Airflow's commands."""
    lists = [
        f"{what} -o json"
        for what in ("plugins", *map("providers {}".format, ("hooks", "behaviours", "links", "widgets")))
    ]
    return _last_line("-c", COMMANDS, *lists, "config list --section payarc --include-descriptions")


def _last_line(*command: str, **environment: str) -> Any:
    """The JSON that a new process prints at its end. It starts elsewhere, to find the package that is installed."""
    home, environment = os.environ["AIRFLOW_HOME"], os.environ | environment
    start = [sys.executable, *command]
    done = subprocess.run(start, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_airflow_lists_the_provider():
    listed = {one["package_name"]: one for one in _last_line("-m", "airflow", "providers", "list", "-o", "json")}

    assert listed["airflow-provider-payarc"]["version"] == __version__
    assert "PayArc" in listed["airflow-provider-payarc"]["description"]


def test_airflows_commands_list_everything_of_the_provider(commands):
    def listed(command: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(commands[command].strip().splitlines()[-1])
        return rows

    (hook,) = [one for one in listed("providers hooks -o json") if one["connection_type"] == "payarc"]
    assert hook["hook_name"] == "PayArc"
    links = {one["extra_link_class_name"] for one in listed("providers links -o json")}
    assert "payarc_provider.operators.links.PayarcDashboardLink" in links
    assert "payarc_customers" in {one["name"] for one in listed("plugins -o json")}
    assert "payarc" in {one["field_behaviours"] for one in listed("providers behaviours -o json")}
    fields = {one["connection_parameter_name"] for one in listed("providers widgets -o json")}
    assert {f"extra__payarc__{name}" for name in CONN_FIELDS} <= fields


def test_airflow_knows_the_configuration_options(commands):
    said = commands["config list --section payarc --include-descriptions"]

    assert "ledgers = " in said
    assert 'the page "PayArc customers"' in said
    assert "verbatim_reasons = " in said


def test_loading_the_plugin_imports_nothing_heavy():
    script = """
import sys, json
from airflow.providers.common.compat.sdk import AirflowPlugin
before = set(sys.modules)
import payarc_provider.plugins.customers
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    assert set(_last_line("-c", script)) <= {
        "payarc_provider",
        "payarc_provider.plugins",
        "payarc_provider.plugins.customers",
    }


def test_the_connection_form_has_our_labels():
    form = _last_line("-c", FORM_3 if AIRFLOW_3 else FORM_2)

    assert form["name"] == "PayArc"
    assert form["labels"] == LABELS
    assert {"login", "url_schema"} <= set(form["hidden"])
    assert "port" not in form["hidden"]  # see docs/ui.md


@pytest.mark.parametrize("name", ["provider_info.schema.json", "customized_form_field_behaviours.schema.json"])
def test_the_metadata_is_valid_by_airflows_schema(name):
    schema = json.loads((files("airflow") / name).read_text())
    ours = get_provider_info() if name.startswith("provider") else PayarcHook.get_ui_field_behaviour()

    jsonschema.validate(ours, schema)


def test_everything_named_in_the_metadata_exists():
    info = get_provider_info()

    for kind in ("hooks", "operators"):
        for group in info[kind]:
            for module in group["python-modules"]:
                importlib.import_module(module)
    for kind in ("asset-uris", "dataset-uris"):
        for uris in info[kind]:
            for name in (uris["handler"], uris["factory"], uris["to_openlineage_converter"]):
                module, _, function = name.rpartition(".")
                assert callable(getattr(importlib.import_module(module), function))
    (connection_type,) = info["connection-types"]
    module, _, hook = connection_type["hook-class-name"].rpartition(".")
    assert getattr(importlib.import_module(module), hook) is PayarcHook
    assert connection_type["connection-type"] == PayarcHook.conn_type
    assert connection_type["hook-name"] == PayarcHook.hook_name
    for name in info["extra-links"]:
        module, _, link = name.rpartition(".")
        assert getattr(importlib.import_module(module), link)


def test_the_decorator_is_found_by_airflow():
    assert task.payarc_customers is payarc_customers_task
    assert get_provider_info()["task-decorators"] == [
        {"name": "payarc_customers", "class-name": f"{payarc_customers_task.__module__}.payarc_customers_task"}
    ]


@pytest.mark.parametrize("lazy", ["True", "False"])
def test_the_plugin_is_loaded_once(lazy):
    script = """
import json
from airflow import plugins_manager
if hasattr(plugins_manager, "_get_plugins"):  # Airflow 3.2 and newer
    plugins, errors = plugins_manager._get_plugins()
else:
    plugins_manager.ensure_plugins_loaded()
    plugins, errors = plugins_manager.plugins, plugins_manager.import_errors
print(json.dumps([[one.name for one in plugins if one.name.startswith("payarc")], errors]))
"""
    assert _last_line("-c", script, AIRFLOW__CORE__LAZY_DISCOVER_PROVIDERS=lazy) == [["payarc_customers"], {}]


@pytest.mark.skipif(not HAS_COMMANDS, reason="providers add commands to Airflow's from 3.2 on")
def test_airflow_has_the_ledgers_command_line():
    status, every = "payarc ledger status --help", "payarc ledger --help"
    said = _last_line("-c", COMMANDS, status, every)

    assert "usage: airflow payarc ledger status" in said[status]
    assert "rename a source of records" in said[every]


@pytest.mark.skipif(not HAS_COMMANDS, reason="providers add commands to Airflow's from 3.2 on")
def test_the_ledgers_command_line_runs_in_airflow(tmp_path):
    command = [sys.executable, "-m", "airflow", "payarc", "ledger"]
    environment = os.environ | {"AIRFLOW_CONN_LEDGER": f"sqlite:///{tmp_path}/ledger.db"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        given = [*command, *arguments]
        return subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    ddl = run("--ledger-conn-id", "ledger", "ddl")
    assert (ddl.returncode, "CREATE TABLE payarc_customers" in ddl.stdout) == (0, True), ddl.stderr
    wrong = run("status")
    assert (wrong.returncode, "--ledger-conn-id is required" in wrong.stderr) == (2, True)


def test_no_import_is_deprecated():
    imported = _last_line("-c", IMPORT_ALL)

    assert {"payarc_provider.hooks.payarc", "payarc_provider.operators.customer"} <= set(imported)


def test_the_form_of_older_airflows_has_the_same_fields():
    pytest.importorskip("flask_appbuilder", reason="Airflow 3 draws the form from the metadata")
    widgets = PayarcHook.get_connection_form_widgets()

    assert {name: str(widget.args[0]) for name, widget in widgets.items()} == {
        name: field["label"] for name, field in CONN_FIELDS.items()
    }
