"""Ranks variants of an email by what is expected of them, and says how sure that is."""
