"""PayArc's official Python SDK used with the sandbox: its responses have the format that the SDK expects."""

import asyncio

import pytest
from payarc import Payarc

JOHN = {"name": "John Smith", "email": "john@example.com", "phone": "5417543010", "country": "US"}


@pytest.fixture
def sdk(payarc_sandbox):
    return Payarc(payarc_sandbox.token, base_url=payarc_sandbox.origin)


def test_every_method_of_the_sdk(sdk, payarc_sandbox):
    async def use_every_method():
        created = await sdk.customers["create"](dict(JOHN))
        retrieved = await sdk.customers["retrieve"](created["object_id"])
        listed = await sdk.customers["list"]({"limit": 10, "page": 1})
        updated = await sdk.customers["update"](created["object_id"], {"name": "Jane Smith"})
        again = await created["update"]({"city": "New York"})
        stored = payarc_sandbox.customers()
        deleted = await sdk.customers["delete"](created["object_id"])
        return created, retrieved, listed, updated, again, stored, deleted

    created, retrieved, listed, updated, again, stored, deleted = asyncio.run(use_every_method())

    assert created["object_id"] == f"cus_{created['customer_id']}"
    assert {field: retrieved[field] for field in JOHN} == JOHN
    assert [row["object_id"] for row in listed["customers"]] == [created["object_id"]]
    assert listed["pagination"] == {"total": 1, "count": 1, "per_page": 10, "current_page": 1, "total_pages": 1}
    assert updated["name"] == again["name"] == "Jane Smith"
    assert [(row["customer_id"], row["city"]) for row in stored] == [(created["customer_id"], "New York")]
    assert deleted == {}
    assert payarc_sandbox.customers() == []


def test_list_pages(sdk, payarc_sandbox):
    ids = [row["customer_id"] for row in payarc_sandbox.seed([{}] * 60)]

    async def read_all():
        return [await sdk.customers["list"]({"page": page}) for page in (1, 2, 3)]

    rows = [row["customer_id"] for page in asyncio.run(read_all()) for row in page["customers"]]
    assert rows == ids[::-1]


def test_a_rejected_record_is_an_error(sdk, payarc_sandbox):
    with pytest.raises(Exception, match="API Create customers"):
        asyncio.run(sdk.customers["create"]({"name": "Jo"}))

    assert payarc_sandbox.stats()["responses"] == {"422": 1}
