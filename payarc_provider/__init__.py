"""Apache Airflow provider for PayArc: customers created exactly once."""

__version__ = "0.1.0"
