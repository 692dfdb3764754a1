"""The kinds of task that this release offers: one line each."""

from mesh.agents.classifier.agent import SPEC as CLASSIFY
from mesh.agents.kinds.generate import SPEC as GENERATE
from mesh.agents.kinds.workflow import SPEC as WORKFLOW
from mesh.agents.optimiser.agent import SPEC as OPTIMISE
from mesh.agents.personaliser.agent import SPEC as PERSONALISE
from mesh.agents.translator.agent import SPEC as TRANSLATE
from mesh.agents.write_email.pipeline import SPEC as WRITE_EMAIL

ALL = (WRITE_EMAIL, GENERATE, CLASSIFY, PERSONALISE, OPTIMISE, TRANSLATE, WORKFLOW)
