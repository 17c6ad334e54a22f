"""``make bench``: this provider beside what else would create the customers, in one run, counted at the sandbox."""
