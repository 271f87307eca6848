"""The processes of a run: form ranks, meet, detect a lost rank, leave on request."""
