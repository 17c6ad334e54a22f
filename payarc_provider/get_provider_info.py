"""The metadata by which Airflow discovers this provider."""

from __future__ import annotations

from typing import Any

from payarc_provider import __version__

UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "login", "extra"],
    "relabeling": {"host": "Base URL", "password": "Access token"},
    "placeholders": {
        "host": "leave empty for PayArc's own host",
        "password": "from the API page of PayArc's dashboard",
        "port": "443, needed by the Test button of Airflow 3.3.1 and 3.3.2",
    },
}

CONN_FIELDS: dict[str, dict[str, Any]] = {
    "environment": {
        "label": "Environment",
        "description": "PayArc's test or live environment. A token is valid in one of them only.",
        "schema": {"type": "string", "enum": ["test", "live"], "default": "test"},
    },
    "account": {
        "label": "Account",
        "description": "A name for the merchant, which separates merchants in a ledger. Default: the token's user.",
        "schema": {"type": ["string", "null"], "default": None, "maxLength": 150},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "The total time that one request may take.",
        "schema": {"type": ["number", "null"], "default": 30, "minimum": 1, "maximum": 600},
    },
    "verify": {
        "label": "Verify TLS",
        "description": "true, or the path to a CA bundle. false disables verification: not for live tokens.",
        "schema": {"type": ["string", "null"], "default": "true"},
    },
}

ASSET_URIS: list[dict[str, Any]] = [
    {
        "schemes": ["payarc"],
        "handler": "payarc_provider.assets.sanitize_uri",
        "factory": "payarc_provider.assets.create_asset",
        "to_openlineage_converter": "payarc_provider.assets.convert_asset_to_openlineage",
    }
]
CONFIG: dict[str, Any] = {
    "payarc": {
        "description": "What is shown of PayArc's customers, and of its texts.",
        "options": {
            "ledgers": {
                "description": (
                    'The ledgers that the page "PayArc customers" shows (Airflow 3.1 and newer), as a comma-separated\n'
                    "list of database connections. Append ``:table`` for a ledger in another table than\n"
                    "``payarc_customers``.\n"
                ),
                "version_added": "0.1.0",
                "type": "string",
                "example": "crm, billing:finance.payarc_customers",
                "default": "",
            },
            "verbatim_reasons": {
                "description": (
                    "Whether PayArc's reasons for rejecting a record are shown and stored as PayArc wrote them. They\n"
                    "may then quote the record's values in logs, XComs and the ledger. By default, only known\n"
                    "messages and harmless words are shown. Access tokens are removed in either case.\n"
                ),
                "version_added": "0.1.0",
                "type": "boolean",
                "example": "True",
                "default": "False",
            },
        },
    }
}


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata."""
    return {
        "package-name": "airflow-provider-payarc",
        "name": "PayArc",
        "description": "Creates `PayArc <https://www.payarc.com/>`__ customers, each exactly once.\n",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "PayArc",
                "external-doc-url": "https://docs.payarc.net/",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": "PayArc", "python-modules": ["payarc_provider.hooks.payarc"]}],
        "operators": [{"integration-name": "PayArc", "python-modules": ["payarc_provider.operators.customer"]}],
        "task-decorators": [
            {"name": "payarc_customers", "class-name": "payarc_provider.decorators.customers.payarc_customers_task"}
        ],
        "asset-uris": ASSET_URIS,
        "dataset-uris": ASSET_URIS,  # Airflow 2.11
        "extra-links": ["payarc_provider.operators.links.PayarcDashboardLink"],
        "cli": ["payarc_provider.ledger.airflow_command.get_commands"],  # Airflow 3.2 and newer
        "config": CONFIG,
        "connection-types": [
            {
                "connection-type": "payarc",
                "hook-class-name": "payarc_provider.hooks.payarc.PayarcHook",
                "hook-name": "PayArc",
                "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
                "conn-fields": CONN_FIELDS,
            }
        ],
    }
