"""What is shown of PayArc's own texts, which may quote a record's values, the token or another customer.

Two kinds of text pass: the validation messages of PayArc's framework about PayArc's fields (`vocabulary.RULES`), and
single words of a fixed vocabulary that no value of the record contains. The rest becomes ``…``. So it does not matter
in which form a value comes back: only what is known to be harmless is shown.

Everything that reads a text reads at most `_MAX_READ` of its characters.
"""

from __future__ import annotations

import base64
import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from urllib.parse import unquote_plus

from payarc_provider.api.fields import FIELDS
from payarc_provider.api.vocabulary import ALSO_NAMES, LIMITS, RULES, SENTENCES, UNITS, WORDS

__all__ = ["HIDDEN", "TextFilter"]

HIDDEN = "was rejected by PayArc, in words that are not shown"
"""In place of a text of which nothing is shown."""

_STRUCK = "…"
_MAX_READ = 600  # characters of a text, before anything else is done with it
_MAX_TEXT = 300  # characters that are shown
_MAX_NAME = 64
_MAX_FIELDS = 20
_MAX_TEXTS = 5  # per field
_MAX_VALUE = 2000  # characters of a value; PayArc's fields have at most 50
_MAX_VERBATIM_WORD = 40  # characters of a word; email addresses have as many, and tokens have more
_MAX_DIGITS = 3
_SHORT = 3  # letters: words that a longer value may contain by chance
_PART_OF_TOKEN = 8  # characters by which a token is recognized

_AROUND_WORDS = ".,;:!?()[]{}\"'`“”‘’"
_JOINTS = re.compile(r"[-/_]")
_SENTENCE_ENDS = (".", "!", "?", ";")
_LABELS = frozenset({"customer", "value", *FIELDS})


class TextFilter:
    """Filters the texts of one response.

    :param sent: the fields of the request
    :param tokens: the access tokens of the request, which are never shown
    :param verbatim: whether to show texts as PayArc wrote them, without tokens and on one line
    """

    def __init__(self, sent: Mapping[str, str], tokens: Sequence[str] = (), *, verbatim: bool = False) -> None:
        self._sent = sent
        self._tokens = [token for token in tokens if token]
        self._verbatim = verbatim

    def text(self, text: str) -> str:
        """What may be shown of a text, at most 300 characters; empty if that is nothing."""
        text = text[:_MAX_READ]
        return self._without_tokens(text) if self._verbatim else self._known_parts(text)

    def errors(self, errors: Mapping[str, object]) -> dict[str, list[str]]:
        """What may be shown of errors by field. Unknown fields are ``…``, since a value may come as a field's name."""
        shown: dict[str, list[str]] = {}
        for name, texts in islice(errors.items(), _MAX_FIELDS):
            reasons = shown.setdefault(self._field(name), [])
            for text in islice(_texts_in(texts), _MAX_TEXTS):
                reason = self.text(text) or HIDDEN
                if reason not in reasons and len(reasons) < _MAX_TEXTS:
                    reasons.append(reason)
        return shown

    def _field(self, name: str) -> str:
        if name in FIELDS:
            return name
        return (self._without_tokens(name[:_MAX_NAME]) if self._verbatim else "") or _STRUCK

    # ---- known texts ------------------------------------------------------------------------------------------------

    def _known_parts(self, text: str) -> str:
        words = html.unescape(text).replace("’", "'").split()
        if len(text) == _MAX_READ and words:  # the last word may be the beginning of another
            words[-1] = _STRUCK
        parts: list[str] = []
        says_something = False
        for sentence in _sentences(words):
            passes = [True] * len(sentence) if self._is_known(sentence) else self._passing(sentence)
            for word, shown in zip(sentence, passes, strict=True):
                if shown:
                    parts.append(word)
                    says_something = says_something or len(word.strip(_AROUND_WORDS)) > _SHORT
                elif parts[-1:] != [_STRUCK]:
                    parts.append(_STRUCK)
        shown_text = " ".join(parts) if says_something else ""
        return shown_text if len(shown_text) <= _MAX_TEXT else shown_text[: _MAX_TEXT - 1] + _STRUCK

    def _is_known(self, sentence: list[str]) -> bool:
        """Whether it is a message of Laravel about one of PayArc's fields, with plausible numbers."""
        words = [word.strip("\"'`").lower() for word in sentence]
        words[-1] = words[-1].rstrip(".!").strip("\"'`")
        numbers = [word for word in words if _is_number(word)]
        if any(map(self._is_part, numbers)) or (words[-1] not in UNITS and not self._numbers.isdisjoint(numbers)):
            return False
        if _pattern(words) in SENTENCES:
            return True
        start = 1 if words[0] == "the" else 0
        start += words[start : start + 1] in (["selected"], ["given"], ["your"])
        for length in (1, 2, 3):
            if "_".join(words[start : start + length]) in FIELDS:
                rest = words[start + length :]
                rest = rest[1:] if rest[:1] == ["field"] else rest
                if _pattern(rest) in RULES:
                    return True
        return False

    def _passing(self, sentence: list[str]) -> list[bool]:
        """For each word, whether it may be shown."""
        cores = [word.strip(_AROUND_WORDS) for word in sentence]
        context = ["", *cores, ""]
        passes = [
            self._may_show_number(core, before, after) if _is_number(core) else self._may_show(core, after)
            for before, core, after in zip(context, cores, context[2:], strict=False)
        ]
        # A word that looks like a name, beside a struck one, may belong to the same name.
        names = [_looks_like_a_name(core) for core in cores]
        for order in (range(len(cores)), range(len(cores) - 1, -1, -1)):
            for before, at in pairwise(order):
                passes[at] = passes[at] and not (names[at] and not passes[before])
        # A short word between struck ones says nothing, and may belong to them.
        for at in range(1, len(cores) - 1):
            if len(cores[at]) <= _SHORT and not (passes[at - 1] or passes[at + 1]):
                passes[at] = False
        return passes

    def _may_show(self, core: str, after: str) -> bool:
        if "_" in core and core in FIELDS:
            return True
        words = [word.removesuffix("'s") for word in _JOINTS.split(core)]
        is_length = core.lower() in ("min", "max") and (after.lower() == "length" or _is_number(after))
        return all((is_length or _is_harmless(word)) and not self._is_in_a_value(word.lower()) for word in words)

    def _may_show_number(self, number: str, before: str, after: str) -> bool:
        is_limit = after.lower() in UNITS or before.lower() in LIMITS
        return is_limit and not self._is_part(number) and number not in self._numbers

    def _is_part(self, number: str) -> bool:
        """Whether a value contains this number. Almost any contains one or two digits by chance."""
        return len(number) == _MAX_DIGITS and any(number in value for value in self._values)

    def _is_in_a_value(self, word: str) -> bool:
        word = word.replace("'", "")
        if word in self._value_words:
            return True
        return len(word) > _SHORT and any(word in value or word[::-1] in value for value in self._values)

    @cached_property
    def _folded(self) -> list[str]:
        """The values without accents and in small letters."""
        decomposed = (unicodedata.normalize("NFKD", value[:_MAX_VALUE]) for value in self._sent.values())
        return [value.casefold() for value in decomposed]

    @cached_property
    def _values(self) -> list[str]:
        """The letters and digits of each value."""
        return list(map(_compact, self._folded))

    @cached_property
    def _value_words(self) -> set[str]:
        """The words of the values and the tokens, and each as a whole if it is a single word with other signs in it."""
        texts = [*self._folded, *(token.casefold() for token in self._tokens)]
        return {word for text in texts for word in re.split(r"[\W_]+", text)} | set(map(_compact, texts))

    @cached_property
    def _numbers(self) -> set[str]:
        return {word for word in self._value_words if word.isdigit()}

    # ---- verbatim texts ---------------------------------------------------------------------------------------------

    def _without_tokens(self, text: str) -> str:
        text = "".join(char if char.isprintable() else " " for char in text)
        for token in self._tokens:
            text = re.sub(re.escape(token), _STRUCK, text, flags=re.IGNORECASE)
        words = (word if len(word) <= _MAX_VERBATIM_WORD else _STRUCK for word in text.split())
        text = " ".join(words)[:_MAX_TEXT]
        return "" if self._has_part_of_token(text) else text

    def _has_part_of_token(self, text: str) -> bool:
        """Whether some characters of a token are in the text in any common form, whatever stands between them."""
        readings = {_compact(reading) for reading in (text, html.unescape(text), unquote_plus(text))}
        for form in (form for token in self._tokens for form in _forms(token)):
            size = min(_PART_OF_TOKEN, len(form))
            for reading in readings:
                if any(reading[at : at + size] in form for at in range(len(reading) - size + 1)):
                    return True
        return False


def _texts_in(value: object) -> Iterator[str]:
    """The texts of one field: one, a list, or a mapping. Anything else in it becomes an empty text."""
    parts: Iterable[object] = (value,)
    if isinstance(value, list):
        parts = value
    elif isinstance(value, Mapping):
        parts = value.values()
    return (part if isinstance(part, str) else "" for part in parts)


def _sentences(words: list[str]) -> Iterator[list[str]]:
    sentence: list[str] = []
    for word in words:
        if word.startswith("(") and sentence:
            yield sentence
            sentence = []
        sentence.append(word)
        if word.endswith(_SENTENCE_ENDS):
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _pattern(words: list[str]) -> str:
    return " ".join("#" if _is_number(word) else word for word in words)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS


def _is_harmless(word: str) -> bool:
    """Whether it is a word of the vocabulary, and neither a name nor an abbreviation such as that of a state."""
    lower = word.lower()
    if not word.isascii() or lower not in WORDS:
        return False
    if word.islower():
        return True
    return lower not in ALSO_NAMES and (word.istitle() or len(word) > _SHORT or lower in ("api", "cvc", "cvv", "url"))


def _looks_like_a_name(word: str) -> bool:
    lower = word.lower()
    return lower in ALSO_NAMES or (word[:1].isupper() and len(word) > _SHORT and lower not in _LABELS)


def _compact(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _forms(token: str) -> Iterator[str]:
    """A token as it may be written: as it is, backwards, in hexadecimal digits and in Base64."""
    data = token.encode()
    encoded = (base64.b64encode(bytes(shift) + data).decode()[4 if shift else 0 :] for shift in range(3))
    return map(_compact, (token, token[::-1], data.hex(), *encoded))
