"""Demonstrations against a real running instance: each gives rows of claim, figure, goal."""
