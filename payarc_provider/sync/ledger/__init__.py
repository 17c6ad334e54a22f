"""The ledger: one row per (account, key) in a SQL database, and the rules by which runs change it."""

from payarc_provider.sync.ledger.errors import LedgerConflict, LedgerUnavailable
from payarc_provider.sync.ledger.ledger import Ledger
from payarc_provider.sync.ledger.rows import (
    EPOCH,
    Claimant,
    Hold,
    KnownRow,
    Recorded,
    Resolution,
    RetryRejected,
    Row,
    State,
    is_free,
)
from payarc_provider.sync.ledger.schema import check_account

__all__ = [
    "EPOCH",
    "Claimant",
    "Hold",
    "KnownRow",
    "Ledger",
    "LedgerConflict",
    "LedgerUnavailable",
    "Recorded",
    "Resolution",
    "RetryRejected",
    "Row",
    "State",
    "check_account",
    "is_free",
]
