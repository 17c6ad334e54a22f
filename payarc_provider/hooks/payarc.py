"""PayarcHook: the connection and the token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook, mask_secret

from payarc_provider.exceptions import PayarcAuthError, PayarcError, PayarcRefused
from payarc_provider.hooks.lineage import report_read, report_written

if TYPE_CHECKING:
    from payarc_provider.api.client import PayarcClient
    from payarc_provider.api.token import TokenClaims
    from payarc_provider.hooks.connection import PayarcConnection


class PayarcHook(BaseHook):
    """
    Talk to PayArc with the token of an Airflow connection.

    The connection has the type ``payarc``: the access token from PayArc's dashboard is its password; ``host`` may name
    another base URL (https, or http on loopback only); the extras are ``environment`` (``test`` by default, or
    ``live``), ``account``, ``timeout`` (seconds, the total deadline of a request) and ``verify``.

    The token is masked in logs, and read afresh from the connection when PayArc answers 401, so that a rotated token is
    picked up by a running task.

    :param payarc_conn_id: the connection's id
    """

    conn_name_attr = "payarc_conn_id"
    default_conn_name = "payarc_default"
    conn_type = "payarc"
    hook_name = "PayArc"

    def __init__(self, payarc_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.payarc_conn_id = payarc_conn_id

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Labels of the connection form (Airflow 2.11 to 3.2)."""
        from payarc_provider.get_provider_info import UI_FIELD_BEHAVIOUR

        return {name.replace("-", "_"): value for name, value in UI_FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Extra fields of the connection form (Airflow 2.11 to 3.2)."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import StringField
        from wtforms.validators import AnyOf, Optional

        from payarc_provider.get_provider_info import CONN_FIELDS

        widgets = {}
        for name, field in CONN_FIELDS.items():
            choices = [choice for choice in field["schema"].get("enum", []) if choice]
            widgets[name] = StringField(
                lazy_gettext(field["label"]),
                widget=BS3TextFieldWidget(),
                description=field["description"],
                default=str(field["schema"].get("default") or ""),
                validators=[Optional(), AnyOf(choices)] if choices else [Optional()],
            )
        return widgets

    @cached_property
    def settings(self) -> PayarcConnection:
        """
        The checked connection.

        :raises PayarcConfigError: naming the field and the remedy
        """
        from payarc_provider.hooks.connection import read_connection

        return read_connection(self.get_connection(self.payarc_conn_id))

    @cached_property
    def claims(self) -> TokenClaims:
        """What the token says of itself; nothing in it is trusted."""
        from payarc_provider.api.token import read_claims

        return read_claims(self.token())

    @cached_property
    def client(self) -> PayarcClient:
        """The client behind this hook."""
        return self.get_client()

    @property
    def uri(self) -> str | None:
        """The merchant's customers as an asset; None where neither connection nor token name the merchant."""
        from payarc_provider.assets import customers_uri

        account = self.settings.account or self.claims.sub
        return customers_uri(self.settings.place, account) if account else None

    def get_conn(self) -> PayarcClient:
        """The client behind this hook."""
        return self.client

    def get_client(self) -> PayarcClient:
        """
        A new client, with a rate limiter of its own.

        :raises PayarcConfigError: if the connection is set up wrongly
        :raises PayarcAuthError: if the token has expired
        """
        from payarc_provider.api.client import PayarcClient
        from payarc_provider.hooks.tracing import get_tracer

        settings = self.settings
        self._check_expiry()
        return PayarcClient(
            settings.base_url,
            self.token,
            timeout=settings.timeout,
            verify=settings.verify,
            tracer=get_tracer(),
        )

    def create_customer(self, fields: Mapping[str, Any], idempotency_key: str | None = None) -> dict[str, Any]:
        """
        Create one customer with one POST; an unknown outcome is never retried.

        Calling this twice makes two customers: ``CreateCustomerOperator`` is what makes each exactly once.

        :param fields: PayArc field → value, checked by the rules of PayArc's guide before anything is sent
        :param idempotency_key: sent as ``Idempotency-Key``; it is not known whether PayArc honours it for customers
        :return: PayArc's customer, with its id under ``customer_id``
        :raises PayarcRefused: by the rules (``status`` None) or by PayArc; ``errors`` says what is wrong, by field
        :raises PayarcAuthError: the token is not accepted
        :raises PayarcRateLimited: not processed; send again after ``retry_after`` seconds
        :raises PayarcConnectionFailed: nothing was sent
        :raises PayarcUnknownOutcome: a customer may have been created: look before sending again
        """
        cleaned = self._checked(fields)
        if not cleaned:
            raise PayarcRefused(errors={"record": ["has no value in any PayArc field: nothing would be created"]})
        customer = self.client.create_customer(cleaned, idempotency_key=idempotency_key)
        report_written(self, self.uri)
        return customer

    def get_customer(self, customer_id: str) -> dict[str, Any]:
        """
        One customer.

        :param customer_id: with or without ``cus_``
        :raises PayarcNotFound: there is none
        """
        customer = self.client.get_customer(customer_id)
        report_read(self, self.uri)
        return customer

    def update_customer(self, customer_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """
        Change a customer's fields.

        :param customer_id: with or without ``cus_``
        :param fields: PayArc field → new value; those not named stay
        :return: the customer as it is now
        """
        customer = self.client.update_customer(customer_id, self._checked(fields))
        report_written(self, self.uri)
        return customer

    def delete_customer(self, customer_id: str) -> None:
        """
        Delete a customer at PayArc. The ledger is not told: forget the key there too before it is created again.

        :param customer_id: with or without ``cus_``
        """
        self.client.delete_customer(customer_id)
        report_written(self, self.uri)

    def list_customers(self, page_size: int = 100) -> Iterator[dict[str, Any]]:
        """
        All customers, newest first, a page at a time as they are asked for.

        :param page_size: customers per request, at most 100 (observed)
        """
        report_read(self, self.uri)
        return self.client.list_customers(page_size)

    def test_connection(self) -> tuple[bool, str]:
        """One cheap call that changes nothing; the message holds nothing of the token or of an answer's body."""
        try:
            self.client.ping()
        except PayarcError as error:
            return False, str(error)
        return True, f"PayArc accepts the token ({self.settings.place})"

    @staticmethod
    def _checked(fields: Mapping[str, Any]) -> dict[str, str]:
        from payarc_provider.api.fields import clean

        cleaned, errors = clean(fields)
        if errors:
            raise PayarcRefused(errors=errors)
        return cleaned

    def token(self, refresh: bool = False) -> str:
        """
        The access token.

        :param refresh: read it afresh from the connection
        :raises PayarcAuthError: if it is another user's by now
        """
        from payarc_provider.hooks.connection import read_token

        token = (
            read_token(self.get_connection(self.payarc_conn_id))
            if refresh or self._cached_token is None
            else self._cached_token
        )
        if token != self._cached_token:
            mask_secret(token)
            self._check_same_user(token)
            self._cached_token = token
        return token

    _cached_token: str | None = None

    def _check_same_user(self, token: str) -> None:
        """Whose rows a run writes is settled at its beginning: another merchant's token must not come in midway."""
        from payarc_provider.api.token import read_claims

        before = read_claims(self._cached_token).sub if self._cached_token else None
        after = read_claims(token).sub
        if before and after and before != after:
            raise PayarcAuthError(
                "the connection's token has been replaced by one of another user while it was in use: run again, and "
                "it is seen to whether that is the same merchant"
            )

    def _check_expiry(self) -> None:
        from payarc_provider.api.token import expiry_problem

        problem = expiry_problem(self.claims, time.time())
        if problem is None:
            return
        if problem.expired:
            raise PayarcAuthError(problem.text)
        self.log.warning("Connection %s: %s", self.payarc_conn_id, problem.text)
