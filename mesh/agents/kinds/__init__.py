"""The kinds of task that this release offers: one line each."""

from mesh.agents.write_email.pipeline import SPEC as WRITE_EMAIL

ALL = (WRITE_EMAIL,)
