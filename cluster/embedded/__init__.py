"""The services that the embedded profile runs by itself, each a child of the supervisor."""
