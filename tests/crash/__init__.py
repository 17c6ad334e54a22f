"""Real processes, really killed: what is counted at the sandbox afterwards must be one customer for each record."""
