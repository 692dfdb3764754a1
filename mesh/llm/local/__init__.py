"""The short way to an engine's process on the same host: a unix socket, many requests on one
connection, no HTTP and no RPC framework between a token and whoever waits for it.

Who may open the socket is decided by its directory (mode 0700). Nothing here is spoken between
hosts; there, and while a replica is away, calls take Ray Serve's way.
"""
