"""Saved models: how they are read, judged and rewritten."""
