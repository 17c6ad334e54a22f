"""Which records PayArc rejects, and how it says so."""

import pytest
from sandbox_client import JOHN


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("name", "Jo", "The name must be at least 3 characters."),
        ("name", "J" * 51, "The name may not be greater than 50 characters."),
        ("email", "nobody", "The email must be a valid email address."),
        ("email", "nobody@nowhere", "The email must be a valid email address."),
        ("email", "n" * 29 + "@example.com", "The email may not be greater than 40 characters."),
        ("description", "Four", "The description must be at least 5 characters."),
        ("address_1", "1 St", "The address 1 must be at least 5 characters."),
        ("country", "U.S.A.", "The country may only contain letters."),
        ("zip", "1O469", "The zip format is invalid."),
        ("zip", "10469-23456", "The zip may not be greater than 10 characters."),
        ("phone", "+1 541", "The phone must be a number."),
        ("phone", "123456789012", "The phone may not be greater than 11 characters."),
        ("city", ["New York"], "The city must be a string."),
    ],
)
def test_values_are_validated_by_the_guides_rules(client, sandbox, field, value, text):
    response = client.create(JOHN | {field: value})

    body = response.json()
    assert response.status_code == body["status_code"] == 422
    assert body["message"] == "The given data was invalid."
    assert body["errors"] == {field: [text]}
    assert sandbox.customers() == []
    assert sandbox.log()[0]["outcome"] == "rejected"


@pytest.mark.parametrize(
    "name", ["O'Neil", "Jean-Luc", "Dr. Åsa Ünal, Jr.", "Smith & Sons", "José", "नमस्ते", "{{ 7*7 }}"]
)
def test_names_can_contain_more_than_letters(client, name):
    assert client.create({"name": name}).json()["data"]["name"] == name


def test_values_can_be_taken_and_fields_required(client, sandbox):
    sandbox.settings(taken={"email": ["taken@example.com"]}, required=["name"])

    response = client.create({"email": "taken@example.com"})

    assert response.json()["errors"] == {
        "email": ["The email has already been taken."],
        "name": ["The name field is required."],
    }


def test_a_rejection_can_have_other_formats(client, sandbox):
    sandbox.settings(envelope="409-list")
    listed = client.create({"name": "Jo"})
    sandbox.settings(envelope="409-message")
    joined = client.create({"name": "Jo"})

    assert listed.status_code == joined.status_code == 409
    assert listed.json() == ["The name must be at least 3 characters."]
    assert joined.json()["message"] == "The name must be at least 3 characters."
    assert "errors" not in joined.json()


@pytest.mark.parametrize("body", ["{", "[]", '"x"', b"\xff"])
def test_a_body_that_cannot_be_parsed_is_a_400(client, sandbox, body):
    response = client.post("", data=body, headers={"Content-Type": "application/json"})

    assert response.status_code == response.json()["status_code"] == 400
    assert sandbox.customers() == []
