"""Ray's dashboard, and its agent, with ``cluster.loopback`` applied: they are drivers, too (the
one asks Serve, the other runs jobs).

``cluster.loopback`` puts this script before the dashboard's own, whose path is the first argument.
The dashboard's modules run in processes of their own that import this file as their main module:
so they are patched as well, and so the dashboard's code runs in *this* module's namespace (with
``runpy`` its children would import the dashboard's file instead).
"""

import sys
from pathlib import Path

# Python put this file's folder first; its modules' names are not meant to be importable.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".") != Path(__file__).parent]

from cluster import loopback  # noqa: E402

loopback.apply({loopback.LOOPBACK_VARIABLE: "1"})

if __name__ == "__main__":
    script = sys.argv.pop(1)
    sys.argv[0] = script
    exec(compile(Path(script).read_bytes(), script, "exec"))  # noqa: S102  (Ray's own file)
