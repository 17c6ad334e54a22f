"""The page "PayArc customers" in Airflow's UI: what the ledgers hold, for who may read their connections.

``customers`` is what Airflow loads, everywhere and at every start; the rest is imported when the first page is asked
for. ``app`` has the addresses and who may see them, ``ledgers`` opens what is configured, ``views`` fills the
templates.
"""
