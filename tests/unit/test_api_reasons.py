"""What is shown of PayArc's texts: known messages and harmless words, and no value or token in whatever form."""

from __future__ import annotations

import base64
import codecs
import html
import json
import unicodedata
from urllib.parse import quote, quote_plus

import pytest

from payarc_provider.api import reasons
from payarc_provider.api.errors import error_for
from payarc_provider.api.fields import FIELDS, clean
from payarc_provider.api.http import Request, Response
from payarc_provider.api.reasons import HIDDEN, TextFilter
from payarc_provider.exceptions import PayarcRefused

SENT = {
    "name": "Zbigniew Qvörtrup",
    "email": "z.kwartz@xyzzy.example",
    "phone": "5417540312",
    "description": "Fjord jazz #k7q2m9x4c1pz",
    "address_1": "1047 Vlkjump Parkway",
    "city": "Kyzyl Oxnard",
    "state": "OR",
    "zip": "98117-2345",
}
OTHER_CUSTOMER = ["Grace Hopper", "Will May", "Max Short", "Jane Fields", "hopper@navy.example", "12125550100"]
TOKEN = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"

FORMS = {
    "as it is": str,
    "upper case": str.upper,
    "small letters": str.lower,
    "backwards": lambda value: value[::-1],
    "last word first": lambda value: ", ".join(reversed(value.split())),
    "cut at the end": lambda value: value[:7],
    "cut at the beginning": lambda value: value[-7:],
    "spaced": " ".join,
    "dotted": ".".join,
    "hyphens": "-".join,
    "in groups": lambda value: " ".join(value[at : at + 3] for at in range(0, len(value), 3)),
    "quoted": lambda value: f'"{value}"',
    "in parentheses": lambda value: f"({value})",
    "markup": lambda value: f"<b>{value}</b>",
    "HTML entities": lambda value: "".join(f"&#{ord(char)};" for char in value),
    "hexadecimal entities": lambda value: "".join(f"&#x{ord(char):x};" for char in value),
    "escaped twice": lambda value: html.escape("".join(f"&#{ord(char)};" for char in value)),
    "zero-width joiners": "\u200d".join,
    "soft hyphens": "\u00ad".join,
    "decomposed": lambda value: unicodedata.normalize("NFD", value),
    "with accents": lambda value: "".join(char + "\u0301" for char in value),
    "full width": lambda value: "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in value),
    "right to left": lambda value: f"\u202e{value[::-1]}\u202c",
    "URL-encoded": quote,
    "form-encoded": quote_plus,
    "Base64": lambda value: base64.b64encode(value.encode()).decode(),
    "hexadecimal": lambda value: value.encode().hex(),
    "rot13": lambda value: codecs.encode(value, "rot13"),
    "JSON": json.dumps,
    "in a sentence": lambda value: f"{value}. {value}! {value}; {value}",
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.replace(" ", "_"))
def test_no_value_is_shown_in_any_form_or_place(form):
    for value in [*SENT.values(), *OTHER_CUSTOMER, TOKEN]:
        written = FORMS[form](value)
        text = f"the value {written} is not allowed for it"
        for verbatim_text, shown in [
            (text, {"the value … is not allowed for it", "the value … allowed for it", "the value …"}),
            (written, {"…"}),
        ]:
            places = {
                "a text": {"name": [verbatim_text]},
                "a single text": {"name": verbatim_text},
                "a mapping": {"name": {"0": verbatim_text}},
                "a list in a list": {"name": [[verbatim_text]]},
                "a name in a mapping": {"name": {verbatim_text: {"deep": [verbatim_text]}}},
                "a field's name": {verbatim_text: ["The name format is invalid."]},
                "a nested name": {f"name.{verbatim_text}": ["The name format is invalid."]},
            }
            for place, errors in places.items():
                refused = refusal({"message": verbatim_text, "errors": errors})
                assert refused.message in shown | {"PayArc rejected the data (422)"}, (value, place)
                assert refused.errors.keys() <= {"name", "…"}, (value, place)
                found = {text for texts in refused.errors.values() for text in texts}
                assert found <= shown | {HIDDEN, "The name format is invalid."}, (value, place)


def refusal(body, *, status=422, sent=SENT, verbatim=False):
    response = Response(status, {}, json.dumps(body))
    error = error_for(Request("POST", fields=sent), response, [TOKEN], verbatim=verbatim)
    assert isinstance(error, PayarcRefused)
    return error


def test_a_value_in_a_list_of_texts_is_not_shown():
    assert refusal(["Invalid CVV", "for Zbigniew Qvörtrup"], status=409).message == "Invalid CVV for …"


KNOWN = [
    "The given data was invalid.",
    "The email has already been taken.",
    "The name must be at least 3 characters.",
    "The name field must be at least 3 characters.",
    "The send email address may not be greater than 40 characters.",
    "The cc_email_address must not be greater than 40 characters.",
    "The address 1 must be between 5 and 50 characters.",
    "The email must be a valid email address.",
    "The phone must be a number.",
    "The phone must be between 2 and 11 digits.",
    "The country may only contain letters.",
    "The zip format is invalid.",
    "The selected country is invalid.",
    "The name field is required. (and 2 more errors)",
    "The name must be a string. The state field is required.",
    "Unauthenticated.",
    "Too Many Attempts.",
]
OTHERS = [
    "name must have at least 3 characters",
    "Invalid CVV",
    "Alphabetic and Whitespace, Min Length: 3, Max Length: 50",
    "Alphanumeric and Special Characters, Max Length: 40",
    "Numeric and Hyphen, Max Length: 10",
    "A customer with this email already exists",
    "The phone number isn't valid.",
    "This email address is already in use by another customer",
    "The body could not be read.",
    "Duplicate",
]


@pytest.mark.parametrize("text", KNOWN + OTHERS)
def test_useful_texts_survive(text):
    assert TextFilter(SENT, [TOKEN]).text(text) == text


@pytest.mark.parametrize("text", KNOWN)
def test_known_messages_survive_even_if_the_values_are_their_words(text):
    sent = dict(SENT, name="Required Address", city="Characters", address_1="letters 3 invalid", state="email")
    assert TextFilter(sent, ["taken"]).text(text) == text


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("Jane Required", "Required is not allowed", "… is not allowed"),
        ("Jane Required", "JANE REQUIRED is not allowed", "… is not allowed"),
        ("Jane Réquired", "required is not allowed", "… is not allowed"),
        ("Jane Al-Ready", "it exists already", "it exists …"),
        ("Jane Unrequired", "it is required and wrong", "it is … and wrong"),
        ("Jane Derobmun", "a number is not allowed", "a number is not allowed"),
        ("Jane Rebmun", "a number is not allowed", "a … is not allowed"),
        ("An Li", "An is not allowed", "… is not allowed"),
        ("Jane Smith", "Smith Customer is not allowed", "… is not allowed"),
        ("Jane Smith", "Smith Duplicate is not allowed", "… is not allowed"),
    ],
)
def test_a_word_that_a_value_contains_is_not_shown_in_other_texts(name, text, shown):
    sent = {"name": name} if "Customer" not in text else {"name": name, "description": "Good customer"}
    assert TextFilter(sent).text(text) == ("" if shown == "…" else shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The phone 541 754 0312 is not valid", "The phone … is not valid"),
        ("The phone (541) 754-0312 is not valid", "The phone … is not valid"),
        ("The phone 54.17.54.03.12 is not valid", "The phone … is not valid"),
        ("The phone 5 4 1 7 5 4 0 3 1 2 is not valid", "The phone … is not valid"),
        ("The phone must be at least 541 characters.", "The phone must be at least … characters."),
        ("The zip must be between 98 and 117.", "The zip must be between 98 and …"),
        ("The zip must be between 98117 and 2345.", "The zip must be between …"),
        ("at most 1047 characters", "at most … characters"),
        ("error 1062", "error …"),
    ],
)
def test_numbers_are_shown_as_limits_only(text, shown):
    assert TextFilter(SENT).text(text) == shown


def test_a_number_that_is_a_value_is_not_shown_without_its_unit():
    limits = TextFilter({"address_1": "17 High Street"})
    assert limits.text("The zip must be less than 17.") == "The zip must be less than …"
    assert limits.text("The zip must be less than 18.") == "The zip must be less than 18."
    assert limits.text("The zip must be less than 17 characters.") == "The zip must be less than 17 characters."


def test_a_word_that_is_cut_is_not_taken_for_another():
    assert TextFilter({}).text("x" * 585 + " it is requiredson") == ""
    assert TextFilter({}).text("x" * 570 + " it is required here") == "… it is required …"


def test_only_payarcs_fields_are_shown_as_names():
    errors = {**{name: ["The name format is invalid."] for name in FIELDS}, "Jane": ["x"], "Smith": ["is too long"]}
    shown = TextFilter({}).errors(errors)
    assert list(shown) == [*FIELDS, "…"]
    assert shown["…"] == [HIDDEN, "is too long"]


# ---- [payarc] verbatim_reasons ------------------------------------------------------------------------------------


def test_verbatim_texts_are_shown_as_payarc_wrote_them_on_one_line():
    refused = refusal({"message": "Jane’s  <b>é</b>\n\x1b[1m", "errors": {"card.name": ["Jane Smith"]}}, verbatim=True)
    assert refused.message == "Jane’s <b>é</b> [1m"
    assert refused.errors == {"card.name": ["Jane Smith"]}


TOKEN_FORMS = {name: form for name, form in FORMS.items() if name not in ("rot13", "in groups", "cut at the end")}


@pytest.mark.parametrize("form", [*TOKEN_FORMS.values(), lambda token: token[5:25], lambda token: f"Bearer {token}"])
def test_verbatim_texts_show_no_part_of_the_token(form):
    written = form(TOKEN)
    refused = refusal({"message": f"It is {written}", "errors": {"name": [written], written: ["x"]}}, verbatim=True)
    gone = ("It is …", "It is Bearer …", "PayArc rejected the data (422)")
    shown = [refused.message.strip("\"'()!;. …"), *refused.errors, *refused.errors["name"]]
    for text in [str(refused), *shown]:
        compact = "".join(filter(str.isalnum, text)).casefold()
        for token in (TOKEN, TOKEN[::-1], TOKEN.encode().hex(), base64.b64encode(TOKEN.encode()).decode()):
            secret = "".join(filter(str.isalnum, token)).casefold()
            assert not any(secret[at : at + 10] in compact for at in range(len(secret) - 9)), (text, gone)


# ---- long texts ---------------------------------------------------------------------------------------------------

LONG = {
    "combining marks": "a" + "\u0301\u0323" * 45_000,
    "one word": "word" * 10_000,
    "words": "invalid " * 20_000,
    "at signs": "a@" * 20_000,
    "entities": "&#101;" * 20_000,
    "quotes": "'" * 40_000,
    "digits": "1 " * 40_000,
}


@pytest.mark.parametrize("verbatim", [False, True])
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_long_text_is_cut_before_anything_is_done_with_it(text, verbatim, monkeypatch):
    work = []
    for module, name in ((reasons.html, "unescape"), (reasons, "_compact"), (reasons.unicodedata, "normalize")):
        monkeypatch.setattr(module, name, counting(getattr(module, name), work))
    errors = {"name": [text, *["wrong"] * 1000], text: [text], **{f"field {number}": ["x"] for number in range(1000)}}
    refused = refusal({"message": text, "errors": errors}, verbatim=verbatim)
    assert len(refused.message) <= 300
    assert max(len(text) for texts in refused.errors.values() for text in texts) <= 300
    assert sum(map(len, refused.errors.values())) <= 100
    assert max(map(len, refused.errors)) <= 64
    assert work
    assert max(work) <= 1000


def counting(function, work):
    def call(*arguments):
        work.append(max(len(argument) for argument in arguments if isinstance(argument, str)))
        return function(*arguments)

    return call


@pytest.mark.parametrize("value", ["a" + "\u0301\u0323" * 45_000, "é" * 1_000_000, "\u0301" * 5000])
def test_a_long_value_is_rejected_before_it_is_normalized(value, monkeypatch):
    work: list[int] = []
    monkeypatch.setattr(unicodedata, "normalize", counting(unicodedata.normalize, work))
    fields, errors = clean({"name": value})
    assert fields == {}
    assert errors == {
        "name": [f"must have at most 50 characters (it has {len(value)} characters): fix it at the source"]
    }
    assert max(work, default=0) <= 1000
