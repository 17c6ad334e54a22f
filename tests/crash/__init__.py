"""Real processes that are really killed. Afterwards, the sandbox must have exactly one customer for each record."""
