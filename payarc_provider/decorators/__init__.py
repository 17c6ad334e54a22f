"""The decorator `@task.payarc_customers`."""
