"""`PayarcHook`, the connection and its token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook, conf

from payarc_provider.exceptions import PayarcAuthError, PayarcConfigError, PayarcError, PayarcRefused
from payarc_provider.hooks.lineage import report_read, report_written
from payarc_provider.tracebacks import without_frames

try:
    from airflow.providers.common.compat.sdk import mask_secret
except ImportError:  # common-compat before 1.22
    try:
        from airflow.sdk.log import mask_secret
    except ImportError:  # Airflow 2.11
        from airflow.utils.log.secrets_masker import mask_secret  # type: ignore[import-not-found,no-redef]

if TYPE_CHECKING:
    from payarc_provider.api.client import PayarcClient
    from payarc_provider.api.token import Identity, TokenClaims
    from payarc_provider.hooks.connection import PayarcConnection


class PayarcHook(BaseHook):
    """
    Interact with PayArc's customer API.

    The connection has the type ``payarc``. Its password is the access token from PayArc's dashboard; ``host`` overrides
    the base URL (https, or http on loopback); the extras are ``environment`` (``test`` by default, or ``live``),
    ``account``, ``timeout`` (the total deadline of a request, in seconds) and ``verify``.

    The token is masked in logs. When PayArc answers 401, it is read from the connection again, so that a running task
    picks up a rotated token.

    :param payarc_conn_id: the connection id
    """

    conn_name_attr = "payarc_conn_id"
    default_conn_name = "payarc_default"
    conn_type = "payarc"
    hook_name = "PayArc"

    def __init__(self, payarc_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.payarc_conn_id = payarc_conn_id
        self._token: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickled hook contains: neither the token nor a client. It reads the connection again."""
        kept = {name: value for name, value in vars(self).items() if name not in ("client", "claims")}
        return kept | {"_token": None}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the labels of the connection form (Airflow 2.11 to 3.2)."""
        from payarc_provider.get_provider_info import UI_FIELD_BEHAVIOUR

        return {name.replace("-", "_"): value for name, value in UI_FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the connection form (Airflow 2.11 to 3.2)."""
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
    @without_frames
    def settings(self) -> PayarcConnection:
        """
        The checked connection.

        :raises PayarcConfigError: a field is misconfigured; the text names it
        """
        from payarc_provider.hooks.connection import read_connection

        try:
            return read_connection(self.get_connection(self.payarc_conn_id))
        except PayarcConfigError as error:
            raise error.about(self.payarc_conn_id) from None

    @cached_property
    def claims(self) -> TokenClaims:
        """What the token says about itself, unverified."""
        from payarc_provider.api.token import read_claims

        return read_claims(self.token())

    @cached_property
    def client(self) -> PayarcClient:
        """The client behind this hook."""
        return self.get_client()

    @property
    def identity(self) -> Identity:
        """How connection and token identify the merchant."""
        from payarc_provider.api.token import Identity

        return Identity.of(self.settings.environment, self.settings.account, self.token())

    @property
    def uri(self) -> str | None:
        """The URI of the merchant's customers as an asset; None if neither connection nor token name the merchant."""
        from payarc_provider.assets import customers_uri

        account = self.settings.account or self.claims.sub
        return customers_uri(self.settings.environment, account) if account else None

    def get_conn(self) -> PayarcClient:
        """Return the client behind this hook."""
        return self.client

    @without_frames
    def get_client(self) -> PayarcClient:
        """
        Return a new client, with a rate limiter of its own.

        :raises PayarcConfigError: the connection is misconfigured
        :raises PayarcAuthError: the token has expired
        """
        from payarc_provider.api.client import PayarcClient
        from payarc_provider.hooks.tracing import get_tracer

        settings = self.settings
        self._check_expiry()
        if settings.risk:
            self.log.warning("Connection %s: %s", self.payarc_conn_id, settings.risk)
        return PayarcClient(
            settings.base_url,
            self.token,
            timeout=settings.timeout,
            verify=settings.verify,
            tracer=get_tracer(),
            conn_id=self.payarc_conn_id,
            verbatim_reasons=conf.getboolean("payarc", "verbatim_reasons", fallback=False),
        )

    @without_frames
    def create_customer(self, fields: Mapping[str, Any], idempotency_key: str | None = None) -> dict[str, Any]:
        """
        Create one customer with one POST. An unknown outcome is never retried.

        Calling this twice creates two customers. Use ``CreateCustomerOperator`` to create each customer exactly once.

        :param fields: PayArc field → value, checked against the rules of PayArc's guide before anything is sent
        :param idempotency_key: sent as ``Idempotency-Key``; it is unknown whether PayArc honors it for customers
        :return: PayArc's customer, with its id under ``customer_id``
        :raises PayarcRefused: the fields break the rules (``status`` is None) or PayArc rejected them; ``errors`` has
            the reasons by field
        :raises PayarcAuthError: PayArc does not accept the token
        :raises PayarcRateLimited: not processed; send again after ``retry_after`` seconds
        :raises PayarcConnectionFailed: nothing was sent
        :raises PayarcUnknownOutcome: a customer may have been created; look it up before sending again
        """
        cleaned = self._checked(fields)
        if not cleaned:
            raise PayarcRefused(errors={"record": ["has no value in any PayArc field: fill in at least one"]})
        customer = self.client.create_customer(cleaned, idempotency_key=idempotency_key)
        report_written(self, self.uri)
        return customer

    @without_frames
    def get_customer(self, customer_id: str) -> dict[str, Any]:
        """
        Return one customer.

        :param customer_id: with or without ``cus_``
        :raises PayarcNotFound: PayArc has no such customer
        """
        customer = self.client.get_customer(customer_id)
        report_read(self, self.uri)
        return customer

    @without_frames
    def update_customer(self, customer_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """
        Change a customer's fields with one PATCH. Fields that PayArc shows with other values are named in the log.

        Requests that overtake each other may leave an older value. Use ``CreateCustomerOperator`` with
        ``on_changed="update"`` to prevent that.

        :param customer_id: with or without ``cus_``
        :param fields: PayArc field → new value; other fields stay as they are. The empty text ``""`` clears a field,
            which PayArc may ignore; None is left out
        :return: the customer after the change
        :raises PayarcRefused: no field has a value, the fields break the rules (``status`` is None) or PayArc rejected
            them
        :raises PayarcNotFound: PayArc has no such customer
        :raises PayarcUnknownOutcome: the customer may have been changed; sending the same change again is safe
        """
        from payarc_provider.api.fields import shown_value

        cleared = {name: "" for name, value in fields.items() if isinstance(value, str) and not value}
        cleaned = self._checked(fields) | cleared
        if not cleaned:
            raise PayarcRefused(errors={"record": ['changes nothing: give a value, or "" to clear a field']})
        customer = self.client.update_customer(customer_id, cleaned)
        shown = {name: shown_value(customer[name]) for name in cleaned if name in customer}
        if altered := sorted(name for name, text in shown.items() if text != cleaned[name]):
            self.log.warning("PayArc shows other values than were sent to it in %s", ", ".join(altered))
        report_written(self, self.uri)
        return customer

    @without_frames
    def delete_customer(self, customer_id: str) -> None:
        """
        Delete a customer at PayArc. The ledger still has its key: forget it there to create the customer again.

        :param customer_id: with or without ``cus_``
        """
        self.client.delete_customer(customer_id)
        report_written(self, self.uri)

    def list_customers(self, page_size: int = 100) -> Iterator[dict[str, Any]]:
        """
        Iterate over all customers, newest first. Each page is requested when it is reached.

        :param page_size: customers per request, at most 100
        """
        report_read(self, self.uri)
        customers = self.client.list_customers(page_size)
        return iter(without_frames(partial(next, customers, None)), None)

    def test_connection(self) -> tuple[bool, str]:
        """Make one cheap call that changes nothing. The message never shows the token or a response body."""
        try:
            self.client.ping()
        except PayarcError as error:
            return False, str(error)
        except Exception as error:  # noqa: BLE001 - the message is shown, and other errors may quote what they are about
            return False, f"the connection cannot be used ({type(error).__name__}): check each of its fields"
        risk = f". But {self.settings.risk}" if self.settings.risk else ""
        return True, f"PayArc accepts the token ({self.settings.environment}){risk}"

    @staticmethod
    def _checked(fields: Mapping[str, Any]) -> dict[str, str]:
        from payarc_provider.api.fields import clean

        cleaned, errors = clean(fields)
        if errors:
            raise PayarcRefused(errors=errors)
        return cleaned

    @without_frames
    def token(self, refresh: bool = False) -> str:
        """
        Return the access token.

        :param refresh: read it from the connection again
        :raises PayarcAuthError: the connection's token now belongs to another user
        """
        from payarc_provider.hooks.connection import read_token

        if self._token is not None and not refresh:
            return self._token
        try:
            token = read_token(self.get_connection(self.payarc_conn_id))
        except PayarcConfigError as error:
            raise error.about(self.payarc_conn_id) from None
        if token != self._token:
            mask_secret(token)
            self._check_same_user(token)
            self._token = token
        return token

    def _check_same_user(self, token: str) -> None:
        """Make sure that a run, whose rows belong to one merchant, never continues with another merchant's token."""
        from payarc_provider.api.token import read_claims

        before = read_claims(self._token).sub if self._token else None
        after = read_claims(token).sub
        if before and after and before != after:
            raise PayarcAuthError(
                "the connection's token was replaced during the run by a token of another user: run again, and the new "
                "run checks that it is the same merchant"
            ).about(self.payarc_conn_id)

    def _check_expiry(self) -> None:
        from payarc_provider.api.token import expiry_problem

        problem = expiry_problem(self.claims, time.time())
        if problem is None:
            return
        if problem.expired:
            raise PayarcAuthError(problem.text).about(self.payarc_conn_id)
        self.log.warning("Connection %s: %s", self.payarc_conn_id, problem.text)
