"""The ledger: one row per (account, key) in a SQL database, and the rules by which runs change it."""

from payarc_provider.sync.ledger.database import LedgerUnavailable
from payarc_provider.sync.ledger.ledger import (
    EPOCH,
    Claimant,
    Known,
    Ledger,
    Recorded,
    Resolution,
    Row,
    check_account,
    is_free,
    ripe_at,
)
from payarc_provider.sync.ledger.states import Errors, Retry, State

__all__ = [
    "EPOCH",
    "Claimant",
    "Errors",
    "Known",
    "Ledger",
    "LedgerUnavailable",
    "Recorded",
    "Resolution",
    "Retry",
    "Row",
    "State",
    "check_account",
    "is_free",
    "ripe_at",
]
