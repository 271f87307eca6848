"""The processes of a run: forming ranks, meeting, noticing that one is gone, leaving when asked."""
