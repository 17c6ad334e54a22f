"""``make cluster``: runs in a real Airflow of several processes, some of which are killed."""
