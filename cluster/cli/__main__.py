"""``python -m cluster.cli`` is ``maily``."""

from cluster.cli import main

main()
