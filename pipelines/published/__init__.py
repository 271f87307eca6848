"""Descriptions of published data sets, and what makes their files fit."""
