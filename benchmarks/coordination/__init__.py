"""What the coordination is measured by: each module one figure, against any PostgreSQL and Valkey.

The bench gives them servers of their own, the demonstrations those of a running instance (in a
database of their own beside the runtime's).
"""
