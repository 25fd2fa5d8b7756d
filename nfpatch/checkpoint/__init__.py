"""Saved models: how they are made to fit the source that is installed."""
