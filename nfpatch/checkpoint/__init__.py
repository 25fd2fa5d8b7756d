"""Saved models: their migration to the installed source."""
