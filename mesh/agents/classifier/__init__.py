"""What an email is about, how it sounds, for whom it is, and what could be wrong with it."""
