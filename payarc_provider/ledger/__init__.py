"""The ledger for people: ``python -m payarc_provider.ledger`` shows it, and does by hand what no run may do by itself.

The commands stand in ``arguments``, what they do in ``commands``; what is behind them in ``payarc_provider.sync``:
``overview``, ``upkeep`` and ``rebuild``.
"""
