"""Layers that several rooms share."""
