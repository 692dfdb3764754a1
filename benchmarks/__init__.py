"""Load scripts. Each compares with what a user would pick instead, both in one run."""
