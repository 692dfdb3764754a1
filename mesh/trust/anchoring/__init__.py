"""Roots onto networks: which, when, at what price, and what to do when a chain changes its mind."""
