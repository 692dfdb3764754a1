"""llama.cpp's own HTTP server, alone in a process: the peer that the gateway is compared with.

It gets the very options that the runtime gives its engine. Prints one JSON line
``{"url": …, "key": …}`` once it answers, then serves until its standard input closes.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path

import xllamacpp

from mesh.llm.llamacpp import LlamaCppOptions, server_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("name")
    parser.add_argument("options", help="LlamaCppOptions as JSON")
    arguments = parser.parse_args()
    options = LlamaCppOptions(**json.loads(arguments.options))
    key = secrets.token_urlsafe(24)
    params = server_params(arguments.model, arguments.name, options, key)
    params.n_threads_http = options.slots + 2  # here HTTP is its trade, not a side door
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address + "/v1", "key": key}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
