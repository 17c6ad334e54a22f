"""The probe: finds out how the PayArc of a test account behaves where PayArc's guides say nothing.

``python -m payarc_provider.probe --payarc-conn-id payarc_default`` sends at most 60 requests, creates only obviously
fake people, and deletes them again. See docs/probe.md.
"""
