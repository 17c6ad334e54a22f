"""The command line, ``python -m payarc_provider.ledger``: shows a ledger, and decides what runs leave to a person.

`arguments` defines the commands, `commands` and `rebuild` run them, `output` formats what they print.
"""
