"""Histories of the engine's real code in a simulated world, each chosen by one seed.

`world.py` runs one history, in the kind of world that `scenario.py` chooses, with the records of `records.py`.
`loop.py` simulates time and processes, `ledger.py` the ledger's database, `payarc.py` PayArc, and `runtime.py` what is
between a run and these two. `invariants.py` checks what must always hold. `mutants.py` removes one rule at a time, to
show that its loss would be noticed. `runs.py` runs many histories.
"""
