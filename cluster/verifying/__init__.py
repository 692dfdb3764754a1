"""``maily verify``: reads papers, asks the sources that the user named, and judges messages."""
