"""Insight into experts and gates: statistics of sampled steps, findings that name a failure, and a report."""
