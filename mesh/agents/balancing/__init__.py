"""How work finds its worker: pure policies, decided in the caller's own process.

========== ================================================================================
score      one explainable score of a worker for a task
choice     eligible → two at random → the lower score, in microseconds
roster     which workers live, from their heartbeats
shards     which coordinator shard looks after which workspaces
turns      fair shares between workspaces: the model that the claim's SQL follows
estimates  how long a queue takes, and what can't be done in time
history    what a worker learns from the tasks that it ends
========== ================================================================================
"""

from mesh.agents.balancing.choice import Choice, Digest, choose
from mesh.agents.balancing.score import BalancingOptions, Candidate, cost

__all__ = ["BalancingOptions", "Candidate", "Choice", "Digest", "choose", "cost"]
