"""Tools: what agents and outside clients may call, by one protocol, with allow-lists."""
