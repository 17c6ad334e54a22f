"""The command line, ``python -m payarc_provider.ledger``: shows a ledger, and makes changes that no run may decide on.

`arguments` defines the commands, `commands` and `rebuild` run them, `output` formats what they print.
"""
