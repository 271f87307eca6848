"""Day by day: prepares each new day like the day before, scores it, trains on it, keeps or rejects the model, exports it."""
