"""Runs: records are claimed, sent, recorded and looked up, without Airflow."""
