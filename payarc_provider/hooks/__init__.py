"""Connections, as Airflow's hooks read them."""
