"""The module named like the distribution, in which Airflow looks for example DAGs. The code is in `payarc_provider`."""
