"""The operator, and what it needs from Airflow."""
