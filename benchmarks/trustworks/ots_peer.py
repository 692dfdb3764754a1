"""Runs in OpenTimestamps' own environment: so many files stamped through one calendar tree, each
upgraded and read back by itself, as its client does it. Prints figures as JSON.

The calendar is this process: no network, no wait, and its answer leads from the batch's tip
straight to a block header. A real proof also holds the calendar's own path, the Bitcoin
transaction and the block's path, some hundred bytes more in every file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from io import BytesIO

from opentimestamps.core.notary import BitcoinBlockHeaderAttestation, PendingAttestation
from opentimestamps.core.op import OpAppend, OpSHA256
from opentimestamps.core.serialize import (
    BytesDeserializationContext,
    StreamSerializationContext,
)
from opentimestamps.core.timestamp import DetachedTimestampFile, Timestamp, make_merkle_tree

CALENDAR = "https://calendar.example"


def saved(stamp):
    stream = BytesIO()
    stamp.serialize(StreamSerializationContext(stream))
    return stream.getvalue()


def read(data):
    return DetachedTimestampFile.deserialize(BytesDeserializationContext(data))


def main(count):
    digests = [os.urandom(32) for _ in range(count)]
    began = time.process_time()
    stamps, nonced = [], []
    for digest in digests:
        stamp = DetachedTimestampFile(OpSHA256(), Timestamp(digest))
        nonced.append(stamp.timestamp.ops.add(OpAppend(os.urandom(16))).ops.add(OpSHA256()))
        stamps.append(stamp)
    tip = make_merkle_tree(nonced)
    tip.attestations.add(PendingAttestation(CALENDAR))
    files = [saved(stamp) for stamp in stamps]
    stamped = time.process_time()

    answer = Timestamp(tip.msg)  # what the calendar says of the tip, once it is in a block
    answer.attestations.add(BitcoinBlockHeaderAttestation(900_000))
    upgraded = []
    for data in files:
        stamp = read(data)
        pending = next(find(stamp.timestamp))
        pending.merge(answer)
        pending.attestations = {
            one for one in pending.attestations if not isinstance(one, PendingAttestation)
        }
        upgraded.append(saved(stamp))
    done = time.process_time()

    for digest, data in zip(digests, upgraded):  # noqa: B905 - its Python may be older
        stamp = read(data)
        assert stamp.file_digest == digest
        ((message, attestation),) = stamp.timestamp.all_attestations()
        assert message == tip.msg
        assert isinstance(attestation, BitcoinBlockHeaderAttestation)
    checked = time.process_time()
    print(
        json.dumps(
            {
                "stamp_s": (stamped - began) / count,
                "upgrade_s": (done - stamped) / count,
                "verify_s": (checked - done) / count,
                "pending_bytes": max(map(len, files)),
                "bytes": max(map(len, upgraded)),
            }
        )
    )


def find(timestamp):
    """Every timestamp that waits for a calendar."""
    if any(isinstance(one, PendingAttestation) for one in timestamp.attestations):
        yield timestamp
    for following in timestamp.ops.values():
        yield from find(following)


if __name__ == "__main__":
    main(int(sys.argv[1]))
