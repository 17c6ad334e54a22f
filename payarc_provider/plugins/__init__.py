"""The page "PayArc customers" in Airflow's UI, for anyone who can read the connections of the ledgers it shows.

Airflow imports ``customers`` in most of its processes. The other modules are imported when the first page is requested:
``app`` has the routes, ``ledgers`` opens the configured ledgers, ``html`` renders the templates, ``links`` makes the
addresses.
"""
