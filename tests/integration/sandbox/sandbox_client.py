"""A client for the sandbox, and a valid customer."""

import time

import requests

from payarc_provider.sandbox import SANDBOX_TOKEN

JOHN = {
    "name": "John Smith",
    "email": "john@example.com",
    "description": "Donut shop customer",
    "send_email_address": "invoices@example.com",
    "cc_email_address": "copies@example.com",
    "country": "US",
    "address_1": "103 Mason Street",
    "address_2": "2nd Floor",
    "city": "New York",
    "state": "NY",
    "zip": "10469-2345",
    "phone": "5417543010",
}


class Client(requests.Session):
    """Sends requests with a token to the customers endpoint of one sandbox."""

    def __init__(self, sandbox, token=SANDBOX_TOKEN):
        super().__init__()
        self.base = f"{sandbox.url}/customers"
        self.headers.update({"Authorization": f"Bearer {token}", "Accept": "application/json"})

    def request(self, method, path="", *args, **options):
        options.setdefault("timeout", 5)
        options.setdefault("allow_redirects", False)
        return super().request(method, self.base + path, *args, **options)

    def create(self, fields=JOHN, **options):
        return self.post("", json=fields, **options)

    def rows(self, **query):
        return self.get("", params=query).json()["data"]


def eventually(condition, seconds=2.0):
    """Wait until a condition holds, and assert that it does."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()
