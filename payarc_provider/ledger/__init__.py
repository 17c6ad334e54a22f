"""The command line, ``python -m payarc_provider.ledger``: shows a ledger, and changes by hand what no run may decide.

`arguments` defines the commands, `commands` and `rebuild` run them, `output` formats what they print.
"""
