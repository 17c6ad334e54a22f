"""Whether a reading of PayArc's list proves that there is no customer for a row.

A list may be empty, late, cut short, in another order or an old copy. A complete reading proves absence only if it also
shows what must be there: the customers that the ledger knows to have been created since the row was claimed.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from typing import Any

from payarc_provider.api.client import CustomerPage
from payarc_provider.api.fields import created_between
from payarc_provider.sync.ledger import Control
from payarc_provider.sync.listing import Order, is_before
from payarc_provider.sync.reference import find_reference

FUTURE_SECONDS = 300.0  # PayArc's clocks may differ


class ListProof:
    """Checks the pages of a reading as they arrive.

    :param since: the reading goes back to this time of PayArc's clock, in Unix seconds
    :param controls: customers created after ``since``, by id. The reading has to show them all
    :param newest: ids of known customers of any age, which a reading of the whole list has to show
    :param not_before: PayArc's time at which the requests had ended; an older page is a copy. None if it is not known
    """

    def __init__(
        self,
        since: float,
        controls: Mapping[str, Control],
        newest: Collection[str],
        not_before: float | None,
    ) -> None:
        self._since = since
        self._controls = dict(controls)
        self._newest = set(newest)
        self._not_before = not_before
        self._listed: set[str] = set()
        self.shows_references = False
        """Whether a control carries the reference that it was sent with."""
        self.damages_references = False
        """Whether a control does not."""
        self._problem: str | None = None
        self._order = Order()
        self._is_whole = True

    def see(self, page: CustomerPage) -> None:
        """Check the next page of the reading, or the first page of its next pass."""
        if page.page == 1:
            self._order, self._is_whole = Order(), True
        if self._not_before is not None and page.date is not None and page.date < self._not_before:
            self._problem = "PayArc's list is an old copy"
        relevant = len(page.customers)
        for position, customer in enumerate(page.customers):
            if is_before(customer, self._since):
                self._is_whole = False
                relevant = min(relevant, position)
            else:
                self._listed.add(customer["customer_id"])
                self._compare_reference(customer)
            between = created_between(customer)
            if between is not None and page.date is not None and between[0] > page.date + FUTURE_SECONDS:
                self._problem = "the times in PayArc's list do not agree with PayArc's clock"
        if self._since > 0 and not self._order.holds(page):  # a reading of the whole list does not depend on the order
            self._problem = "PayArc's list is not newest first"
        if any(position <= relevant for position in page.unreadable):
            self._problem = "PayArc's list has an entry without an id, which may be any customer"

    def _compare_reference(self, customer: dict[str, Any]) -> None:
        control = self._controls.get(customer["customer_id"])
        if control is not None and control.reference is not None:
            intact = find_reference(customer.get("description")) == control.reference
            self.shows_references = self.shows_references or intact
            self.damages_references = self.damages_references or not intact

    @property
    def problem(self) -> str | None:
        """What is wrong with the pages themselves; None if nothing is."""
        return self._problem

    def reaches(self, claimed: datetime.datetime, found: Collection[datetime.datetime]) -> bool:
        """Whether the reading has shown a customer that was claimed at this moment or later.

        :param found: when the rows were claimed whose customers the reading has shown
        """
        shown = [control.claimed_at for key, control in self._controls.items() if key in self._listed]
        return any(moment >= claimed for moment in (*shown, *found))

    def missing(self) -> list[str]:
        """The ids that the reading should have shown and has not."""
        expected = self._controls.keys() | (self._newest if self._is_whole else set())
        return sorted(expected - self._listed)

    def excuse(self, customer_id: str) -> None:
        """The list need not show this customer."""
        self._controls.pop(customer_id, None)
        self._newest.discard(customer_id)
