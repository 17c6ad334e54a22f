"""``make bench``: this provider compared with other ways to create the same customers."""
