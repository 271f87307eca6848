"""What the experts do: statistics of sampled steps, findings that name a failure, and a report."""
