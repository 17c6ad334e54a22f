"""``make cluster``: a real Airflow of several processes, killed in mid-run, and a count at the sandbox."""
