"""Guardrails: what text may say, how it is checked, and how it is mended."""
