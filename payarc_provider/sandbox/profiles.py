"""Profiles: the possible PayArcs, each as a set of the sandbox's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from payarc_provider.sandbox.settings import SandboxSettings

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "observed": {
        "rate_limit": 90,
        "rate_limit_per": "user",
        "not_found": "message",
        "embed_cards": True,
    },
    "guide": {
        "rate_limit": 30,
        "rate_limit_per": "endpoint",
        "id_style": "guide",
        "time_style": "guide",
        "create_status": 200,
        "names": "letters",
        "empty_values": "cleared",
    },
    "framework": {
        "rate_limit": 60,
        "rate_limit_per": "user",
        "page_cap": 25,
        "required": ("email",),
        "not_found": "message",
        "empty_values": "ignored",
        "patch_echo": "sent",
        "deletion": "soft",
        "shuffle_same_second": True,
    },
    "strict": {
        "rate_limit": 30,
        "rate_limit_per": "user",
        "page_cap": 50,
        "time_style": "guide",
        "names": "letters",
        "required": ("email",),
        "shared_email": "refused",
        "envelope": "409-message",
        "empty_values": "cleared",
    },
    "generous": {
        "rate_limit": 300,
        "rate_limit_per": "endpoint",
        "search": "email",
        "idempotency": "replay",
        "empty_values": "cleared",
        "embed_cards": True,
    },
    "merging": {
        "rate_limit": 40,
        "rate_limit_per": "user",
        "rate_headers": False,
        "page_cap": 25,
        "required": ("email",),
        "shared_email": "merged",
        "deletion": "soft",
        "list_order": "oldest",
    },
}
"""The profiles that have a name.

- ``observed``: what others have recorded at PayArc's servers, where anybody has
- ``guide``: what PayArc's guides say: 30 requests a minute for each endpoint, names of letters only, text times
- ``framework``: what PayArc's framework does by itself: one limit for all endpoints, pages of 25, empty values ignored,
  deleted customers readable by id, and a response to a PATCH that repeats what was sent
- ``strict``: rejects all that PayArc may reject: names with more than letters, no email, an email used twice
- ``generous``: a high limit, a search for emails, repeated idempotency keys honored
- ``merging``: returns the customer that has the email already, lists the oldest customers first, and sends no
  rate-limit headers
"""


def read_profile(profile: str | PathLike[str]) -> dict[str, Any]:
    """The settings of a profile.

    :param profile: a name in `PROFILES`, or a JSON file with an object of settings, as the probe writes it
    :raises ValueError: there is no such profile, or the sandbox does not accept it; the text names the remedy
    """
    if profile in PROFILES:
        return dict(PROFILES[str(profile)])
    try:
        settings = json.loads(Path(profile).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        names = ", ".join(PROFILES)
        raise ValueError(
            f"profile {str(profile)!r}: cannot be read ({reason}); give a file or one of {names}"
        ) from None
    except (ValueError, RecursionError):
        raise ValueError(f"profile {str(profile)!r}: not JSON; write a new one with the probe") from None
    if not isinstance(settings, dict):
        raise ValueError(f"profile {str(profile)!r}: must be a JSON object of settings")
    try:
        SandboxSettings().changed(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"profile {str(profile)!r}: {error}") from None
    return settings
