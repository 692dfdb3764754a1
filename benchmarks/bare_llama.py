"""llama.cpp's own HTTP server, alone in a process: the peer that the gateway is compared with.

Prints one JSON line ``{"url": …, "key": …}`` once it answers, then serves until its standard
input closes.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--threads-batch", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens per slot")
    options = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.n_ctx = options.context * options.slots
    params.n_parallel = options.slots
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads_batch
    key = secrets.token_urlsafe(24)
    params.api_keys = [key]
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address + "/v1", "key": key}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
