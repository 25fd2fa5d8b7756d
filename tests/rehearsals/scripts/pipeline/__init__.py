"""Forecasts of the air passengers: python -m pipeline [--help]"""
