"""PayArc's customer API: requests, responses, errors and the rate limit."""
