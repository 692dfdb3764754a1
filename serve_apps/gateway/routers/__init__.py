"""Routes by capability. Each handler answers with bytes of its own making (see ``answers``)."""
