"""What PayArc's texts may say: the validation messages of its framework, Laravel, and the words of such messages.

The words are chosen so that none of them tells anything about a person. Common names are not among them.
"""

from __future__ import annotations

__all__ = ["ALSO_NAMES", "LIMITS", "RULES", "SENTENCES", "UNITS", "WORDS"]

_RULES = """
is: required; invalid; not valid; missing; prohibited; not allowed; not unique; too long; too short
has: already been taken; already been used; an invalid format
format: is invalid
already: exists
does: not exist
cannot be: empty; blank; null
may not be: empty; blank; null; greater than #; greater than # characters
must not be: empty; blank; null; greater than #; greater than # characters
may not have: more than # characters; more than # digits
must not have: more than # characters; more than # digits
must have: a value; at least # characters; at most # characters; # characters; # digits
must contain: only letters; only digits; only letters and numbers; at least # characters
may only contain: letters; letters and numbers; letters and spaces; letters and whitespace; digits; numbers
may only contain: letters, numbers, and dashes; letters, numbers, dashes and underscores
may only contain: letters, numbers, dashes, and underscores
must only contain: letters; letters and numbers; letters and spaces; letters and whitespace; digits; numbers
must only contain: letters, numbers, and dashes; letters, numbers, dashes and underscores
must only contain: letters, numbers, dashes, and underscores
must be: accepted; present; filled; unique; numeric; alphanumeric; alphabetic; lowercase; uppercase
must be: a string; a number; an integer; a boolean; an array; a date; a valid email address; a valid email
must be: a valid phone number; a valid zip code; a valid country; a valid country code
must be: #; # characters; # digits; between # and #; between # and # characters; between # and # digits
must be: at least #; at least # characters; at least # digits; at most #; at most # characters; at most # digits
must be: less than #; less than # characters; less than or equal to #; less than or equal to # characters
must be: greater than #; greater than # characters; greater than or equal to #; greater than or equal to # characters
"""
RULES = frozenset(
    f"{start} {end}"
    for start, _, ends in (line.partition(": ") for line in _RULES.strip().splitlines())
    for end in ends.split("; ")
)
"""Laravel's messages after ``The <field> field``; ``#`` stands for a number."""

SENTENCES = frozenset(
    {
        "the given data was invalid",
        "unauthenticated",
        "too many attempts",
        "customer not found",
        "(and # more error)",
        "(and # more errors)",
    }
)
"""Whole sentences that name no field."""

UNITS = frozenset({"character", "characters", "letters", "digit", "digits", "numbers", "symbols", "bytes"})
LIMITS = frozenset({"length", "least", "most", "than", "to", "exactly", "between", "min", "max", "minimum", "maximum"})
"""A number is shown before a unit or after the word for a limit."""

_ALSO_NAMES = """
bank blank code do field fields holder just limit list long lower merchant more new null numbers province read
reason rule short shorter so
"""
ALSO_NAMES = frozenset(_ALSO_NAMES.split())
"""Words that people are called by, too: in free text they are shown only without a capital letter, and not beside a
word that is not shown."""

_WORDS = """
a an and any are as at be been but by can could do does for from had has have if in into is it its no not of on only or
other our please should so than that the their them then there these this those to too was were when where which while
with without you your

accept accepted accepting accepts account accounts action active add added address addresses allow allowed allows
already alphabetic alphanumeric another api associated at attempt attempts attribute authorization authorized
available bad bank before belongs between blank blocked body boolean both bytes cannot card cards cc change changed
changes character characters charge charges choose cities city code codes combination complete conflict contact contain
contained containing contains correct could country create created creating currently customer customers cvc cvv dashes
data date declined default defined delete deleted denied description different digit digits disabled does domain
duplicate duplicated duplicates each either eight eleven email emails empty enabled encoding enter entered enters entity
entry equal error errors exactly exceed exceeded exceeds exist existed existing exists expected expired expiration fail
failed fails field fields filled find first five follow following for forbidden format formats formatted found four
given greater had hold holder hyphen hyphens identical identifier illegal in include included incomplete incorrect
inactive information input integer internal invalid invalidated invoice invoices is issue item items json just kind last
least length less letter letters limit limited line list long longer longest lower lowercase mandatory many match
matches matching maximum maybe merchant message method minimum missing more most must name names need needed
needs never new nine none nor not null number numbers numeric object occurred once one only operation option optional
parameter parameters parse parsed part permission permitted phone please present problem process processed
processing prohibited property provide provided province read reason received record records refused region registered
reject rejected repeated request requested requests require required requires resource restricted rule rules same save
saved search second seconds select selected send sending sent server seven short shorter should six size some something
space spaces special specified state states store stored string supplied support supported symbols syntax taken
temporarily ten text than three time times try twice two type types unable unauthenticated unauthorized under underscore
underscores unexpected unique unknown unprocessable unrecognized unsupported until update updated upper uppercase url
usage use used user using valid validate validated validation value values verification verified verify violates
whitespace wrong zero zip again alphabet ascii unicode payarc route key

aren't can't couldn't doesn't don't hasn't haven't isn't mustn't wasn't won't
"""
WORDS = frozenset(_WORDS.split())
"""The words of other texts that are shown, in small letters."""
