"""A plan's digest, and what an allowance lets a run send."""

from __future__ import annotations

import itertools

import pytest

from payarc_provider.exceptions import PayarcGuardStopped
from payarc_provider.sync.plan import Action, Allowance, Plan, Step, begun_text, plan_id
from payarc_provider.sync.records import RecordReader
from payarc_provider.sync.settings import Settings, TaskIdentity

CREATE, UPDATE, REJECT = Action.CREATE, Action.UPDATE, Action.REJECT
APPROVED = "plan-" + "0" * 32
STRICT = Settings(approved_plan=APPROVED, on_changed="update")


def record(key, begun="", **fields):
    made = RecordReader("id", None, "secret").read(0, {"id": key, "name": "John Smith", **fields})
    made.begun = begun
    return made


def digest(*steps, account="test/1"):
    plan = Plan(account)
    for step in steps:
        plan.add(*step)
    return plan.digest


def create(key, **fields):
    made = record(key, **fields)
    return Step(made, CREATE, made.fields)


def test_the_order_of_the_records_does_not_matter():
    steps = [create(1), create(2), Step(record(3), UPDATE, {"name"}), Step(record(4), REJECT, ["zip"])]
    assert {digest(*steps) for steps in itertools.permutations(steps)} == {digest(*steps)}


def test_every_part_of_a_plan_changes_the_digest():
    digests = [
        digest(),
        digest(create(1)),
        digest(create(2)),
        digest(create(1), create(1)),
        digest(create(1, city="Springfield")),
        digest(create(1, city="Shelbyville")),
        digest(create(1), account="test/2"),
        digest(Step(record(1), UPDATE, ["name"])),
        digest(Step(record(1), UPDATE, ["name", "city"])),
        digest(Step(record(1), REJECT, ["name"])),
    ]
    assert len(set(digests)) == len(digests)
    assert all(one.startswith("plan-") and len(one) == len(APPROVED) for one in digests)


def test_a_value_cannot_pass_for_another_field():
    assert digest(create(1, city='x", "state": "y')) != digest(create(1, city="x", state="y"))


@pytest.mark.parametrize(
    ("begun", "step"),
    [
        ("create", lambda made: Step(made, CREATE, made.fields)),
        ("update city,name", lambda made: Step(made, UPDATE, ["name", "city"])),
    ],
)
def test_what_was_begun_counts_as_planned_whether_it_is_done_or_not(begun, step):
    planned = digest(step(record(1)))
    done, left = Plan("test/1"), Plan("test/1")
    done.add_begun(record(1, begun))
    left.add_begun(record(1, begun))
    left.add(*step(record(1, begun)))
    assert done.digest == left.digest == planned
    assert left.begun == left.counts


def test_more_than_what_was_begun_is_not_planned():
    plan = Plan("test/1")
    plan.add_begun(record(1, "update city"))
    plan.add(record(1, "update city"), UPDATE, ["city", "name"])
    assert plan.counts == {UPDATE: 2}


def test_entries_are_in_input_order():
    plan = Plan("test/1", keep=True)
    for index, key in enumerate("ba"):
        made = record(key)
        made.index = 1 - index
        plan.add(made, CREATE, made.fields)
    assert plan.entries() == [
        {"key": "a", "action": "create", "fields": ["name"]},
        {"key": "b", "action": "create", "fields": ["name"]},
    ]


# ---- allowances -----------------------------------------------------------------------------------------------------


def test_an_approved_plan_admits_what_was_planned_or_less():
    allowance = Allowance(STRICT)
    allowance.allow(create(1))
    allowance.allow(Step(record(2), UPDATE, ["city", "name"]))
    allowance.admit([create(1), create(1), Step(record(2), UPDATE, ["name"])])
    for other in (
        create(2),
        create(1, city="Springfield"),
        Step(record(1), UPDATE, ["name"]),
        Step(record(2), UPDATE, ["zip", "name"]),
        Step(record(2, city="Springfield"), UPDATE, ["name"]),
        Step(record(3), UPDATE, ["name"]),
    ):
        with pytest.raises(PayarcGuardStopped, match="approved_plan: record"):
            allowance.admit([other])


def test_an_adopted_customer_may_be_changed_if_its_creation_was_planned():
    allowance = Allowance(STRICT)
    allowance.allow(create(1))
    allowance.admit([Step(record(1, "create"), UPDATE, ["name"])])
    with pytest.raises(PayarcGuardStopped):
        allowance.admit([Step(record(1, "update name"), UPDATE, ["name"])])


def test_a_plan_is_complete_when_every_record_was_met():
    allowance = Allowance(STRICT)
    allowance.allow(create(1))
    allowance.allow(create(2))
    allowance.meet([record(1), record(2, city="Springfield"), record(3)])
    with pytest.raises(PayarcGuardStopped, match="1 record has changed or vanished"):
        allowance.check_complete()
    allowance.meet([record(2)])
    allowance.check_complete()


def test_a_guard_admits_other_records_up_to_its_limit():
    plan, allowance = Plan("test/1"), Allowance(Settings(max_new=3))
    allowance.allow(create(1))
    plan.add(*create(1))
    allowance.begin(plan, 10)
    allowance.admit([create(1), create(1, city="Springfield"), create(2), create(2), create(3)])
    allowance.admit(Step(record(key), UPDATE, ["name"]) for key in range(100))
    with pytest.raises(PayarcGuardStopped, match="this run would create 4 customers"):
        allowance.admit([create(4)])
    allowance.check_complete()


# ---- the rows of a run ----------------------------------------------------------------------------------------------


def test_the_rows_of_a_run_are_marked_with_its_plan_or_its_task():
    task = TaskIdentity("dag", "run", "task")
    assert plan_id(Settings(), task) is None
    assert plan_id(STRICT, task) == APPROVED
    guarded = Settings(min_records=1)
    assert plan_id(guarded, task) == plan_id(guarded, TaskIdentity("dag", "run", "task", try_number=2))
    others = {plan_id(guarded, TaskIdentity(*who)) for who in [("dag", "run", "b"), ("dag", "b", "task"), ("dag",)]}
    assert len(others | {plan_id(guarded, task), plan_id(guarded, TaskIdentity("dag"))}) == 5
    assert len(plan_id(guarded, TaskIdentity("dag", "run", "task", 1)) or "") == 32


def test_a_mark_fits_into_the_ledger():
    from payarc_provider.api.fields import FIELDS

    assert len(f"{APPROVED} {begun_text(UPDATE, FIELDS)}") <= 250
