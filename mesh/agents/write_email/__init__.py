"""``write_email``: brief → strategy → subject lines → preheader → body → review."""
