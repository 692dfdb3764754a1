"""The edge: authenticate, authorise, validate, limit, translate. It keeps no state of its own."""
