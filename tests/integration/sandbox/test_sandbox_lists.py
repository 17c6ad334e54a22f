"""Lists of customers: their order, their pages, and how they can mislead."""

import random

import requests


def test_pages_are_newest_first(client, sandbox):
    ids = [row["customer_id"] for row in sandbox.seed([{"name": f"Number {'x' * n}"} for n in range(30)])]

    first = client.get("", params={"page": 1}).json()
    second = client.get("", params={"page": 2}).json()

    assert [row["customer_id"] for row in first["data"] + second["data"]] == ids[::-1]
    links = first["meta"]["pagination"].pop("links")
    assert first["meta"]["pagination"] == {
        "total": 30,
        "count": 25,
        "per_page": 25,
        "current_page": 1,
        "total_pages": 2,
    }
    assert set(links) == {"next"}
    assert requests.get(links["next"], headers=client.headers, timeout=5).json()["data"] == second["data"]
    assert set(second["meta"]["pagination"]["links"]) == {"previous"}


def test_page_size_is_limited_and_invalid_parameters_are_ignored(client, sandbox):
    sandbox.seed([{}] * 120)

    assert len(client.rows(limit=1000)) == 100
    assert len(client.rows(limit=100, page=2)) == 20
    assert client.rows(limit=100, page=3) == []
    assert len(client.rows(limit="many", page="-1")) == 25


def test_an_empty_list(client):
    body = client.get("").json()

    assert body["data"] == []
    assert body["meta"]["pagination"]["total"] == 0
    assert body["meta"]["pagination"]["total_pages"] == 1


def test_lists_are_ordered_by_time_then_by_creation(client, sandbox):
    created = sandbox.seed({"created_at": moment} for moment in (300, 100, 200, 200, 400, 100))

    in_order = sorted(created, key=lambda row: (row["created_at"], row["real_id"]), reverse=True)
    assert [row["customer_id"] for row in client.rows()] == [row["customer_id"] for row in in_order]


def test_a_deleted_customer_leaves_the_list(client, sandbox):
    created = sandbox.seed({"created_at": moment} for moment in (1, 2, 2, 2, 3))

    client.delete("/" + created[2]["customer_id"])

    expected = [created[i]["customer_id"] for i in (4, 3, 1, 0)]
    assert [row["customer_id"] for row in client.rows()] == expected


def test_rows_of_one_second_can_be_shuffled_on_each_page(client, sandbox):
    sandbox.settings(shuffle_same_second=True)
    sandbox.seed([{"created_at": 100 + n // 20} for n in range(60)])

    orders = [[row["customer_id"] for row in client.rows(limit=100)] for _ in range(3)]
    times = [row["created_at"] for row in client.rows(limit=100)]
    pages = [{row["customer_id"] for row in client.rows(limit=10, page=page)} for page in range(1, 7)]

    assert orders[0] != orders[1] != orders[2]
    assert set(orders[0]) == set(orders[1])
    assert times == sorted(times, reverse=True)
    assert [len(page) for page in pages] == [10] * 6
    assert len(set.union(*pages)) < 60  # some rows are on two pages, others on none


def test_a_list_can_be_delayed(client, sandbox):
    sandbox.settings(delay_list=0.1)

    assert client.get("").elapsed.total_seconds() >= 0.1
    assert client.create().elapsed.total_seconds() < 0.1


def test_pages_cover_every_row_after_random_changes(client, sandbox):
    numbers = random.Random(3)
    model = []
    for _ in range(60):
        [created] = sandbox.seed([{"created_at": numbers.randrange(10)}])
        model.append(created)
        if numbers.random() < 0.3:
            deleted = model.pop(numbers.randrange(len(model)))
            client.delete("/" + deleted["customer_id"])

    model.sort(key=lambda row: (row["created_at"], row["real_id"]), reverse=True)
    pages = [row["customer_id"] for page in range(1, 10) for row in client.rows(limit=7, page=page)]
    assert pages == [row["customer_id"] for row in model]


def test_a_list_can_claim_that_there_are_fewer_customers(client, sandbox):
    ids = [row["customer_id"] for row in sandbox.seed([{}] * 30)]

    sandbox.settings(list_only=20)
    capped = client.get("", params={"limit": 100}).json()
    sandbox.settings(list_only=0)
    empty = client.get("")

    assert [row["customer_id"] for row in capped["data"]] == ids[:9:-1]
    assert capped["meta"]["pagination"]["total"] == 20
    assert capped["meta"]["pagination"]["total_pages"] == 1
    assert (empty.status_code, empty.json()["data"], empty.json()["meta"]["pagination"]["total"]) == (200, [], 0)


def test_a_list_can_lag(client, sandbox):
    sandbox.settings(list_lag=60)
    [old] = sandbox.seed([{"created_at": 100}])
    client.create()

    page = client.get("").json()

    assert [row["customer_id"] for row in page["data"]] == [old["customer_id"]]
    assert page["meta"]["pagination"]["total"] == 1


def test_a_list_can_have_another_order(client, sandbox):
    ids = [row["customer_id"] for row in sandbox.seed({"created_at": 100 + n} for n in range(20))]

    orders = {}
    for order in ("oldest", "id", "random"):
        sandbox.settings(list_order=order)
        orders[order] = [row["customer_id"] for row in client.rows(limit=100)]

    assert orders["oldest"] == ids
    assert orders["id"] == sorted(ids)
    assert sorted(orders["random"]) == sorted(ids)
    assert orders["random"] not in (ids, ids[::-1])
    assert orders["random"] != [row["customer_id"] for row in client.rows(limit=100)]


def test_times_in_a_list_can_be_shifted_missing_or_unreadable(client, sandbox):
    created = client.create().json()["data"]

    sandbox.settings(list_shift=5 * 3600)
    [shifted] = client.rows()
    sandbox.settings(list_shift=0, list_times="missing")
    [missing] = client.rows()
    sandbox.settings(list_times="unreadable")
    [unreadable] = client.rows()

    assert shifted["created_at"] == created["created_at"] + 5 * 3600
    assert client.get("/" + created["customer_id"]).json()["data"]["created_at"] == created["created_at"]
    assert "created_at" not in missing
    assert unreadable["created_at"] == "a while ago"


def test_seeded_customers_can_be_listed_as_null_or_without_an_id(client, sandbox):
    sandbox.seed([{"created_at": 100, "name": "Seeded"}])
    created = client.create().json()["data"]

    sandbox.settings(list_seeded="null")
    nulls = client.rows()
    sandbox.settings(list_seeded="no_id", id_style="guide")
    no_ids = client.rows()

    assert [nulls[0]["customer_id"], nulls[1]] == [created["customer_id"], None]
    assert no_ids[0]["id"] == created["customer_id"]
    assert no_ids[1]["name"] == "Seeded"
    assert not {"customer_id", "id", "real_id"} & set(no_ids[1])


def test_a_cached_page_keeps_its_date(client, sandbox):
    sandbox.settings(list_cache=60)
    first = client.get("", headers={"Cache-Control": "no-cache"})
    client.create()
    sandbox.settings(clock_offset=30)
    again, other_page = client.get("", headers={"Cache-Control": "no-cache"}), client.get("", params={"limit": 7})
    sandbox.settings(clock_offset=61)
    expired = client.get("")

    assert again.json() == first.json()
    assert again.headers["Date"] == first.headers["Date"]
    assert len(other_page.json()["data"]) == len(expired.json()["data"]) == 1
    assert other_page.headers["Date"] != first.headers["Date"] != expired.headers["Date"]
