"""The ledger: one row per (account, key) in a SQL database, and the rules by which runs change it."""

from payarc_provider.sync.ledger.customers import Alterations, Carrier, Control
from payarc_provider.sync.ledger.errors import LedgerConflict, LedgerLost, LedgerUnavailable
from payarc_provider.sync.ledger.ledger import Ledger
from payarc_provider.sync.ledger.losses import Evidence, SeenRow
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
from payarc_provider.sync.ledger.tombstones import ERASED
from payarc_provider.sync.ledger.updates import Note, UpdateClaim, UpdateResult

__all__ = [
    "EPOCH",
    "ERASED",
    "Alterations",
    "Carrier",
    "Claimant",
    "Control",
    "Evidence",
    "Hold",
    "KnownRow",
    "Ledger",
    "LedgerConflict",
    "LedgerLost",
    "LedgerUnavailable",
    "Note",
    "Recorded",
    "Resolution",
    "RetryRejected",
    "Row",
    "SeenRow",
    "State",
    "UpdateClaim",
    "UpdateResult",
    "check_account",
    "is_free",
]
