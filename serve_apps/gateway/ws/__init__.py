"""``/v1/mesh/ws``: many topics on one WebSocket."""
