"""Translates an email block by block; links, merge tags, names and figures stay as they are."""
