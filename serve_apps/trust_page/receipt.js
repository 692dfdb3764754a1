// The batch receipt (spec §6), and whom to believe that a block is of its chain (§7.9).

import { equal, hex } from "./bytes.js";
import { readNote } from "./checkpoint.js";
import { InvalidInput } from "./errors.js";
import { MAX_NODES, eventRoot, inputRoot, readHeader, trieValue } from "./evm.js";
import { readCanonical } from "./json.js";
import { Members } from "./members.js";

const MAX_ANCHORS = 16;
const NAMES = "chainId contract header index logIndex method proof";

/** Raises InvalidInput that names the member. */
export function readReceipt(data) {
  const members = new Members(readCanonical(data), "", "anchors checkpoint type version");
  members.constant("type", "maily-receipt");
  members.constant("version", 1);
  const anchors = members.items("anchors", MAX_ANCHORS).map(readAnchor);
  const note = members.text("checkpoint", 32768);
  readNote(note);
  return { note, anchors };
}

function readAnchor(value) {
  const members = new Members(value, "anchors", NAMES);
  const method = members.text("method", 8);
  const isEvent = method === "event";
  if (!isEvent && method !== "calldata") {
    throw members.wrong("method", "is neither event nor calldata");
  }
  const isWhere = ["contract", "logIndex"].map((name) => members.get(name) !== null);
  if (isWhere.some((is) => is !== isEvent)) {
    throw members.wrong("method", "does not go with contract and logIndex");
  }
  return {
    chainId: members.number("chainId"),
    method,
    header: members.hex("header"),
    index: members.number("index", 2 ** 32),
    proof: members.hexes("proof", MAX_NODES),
    contract: isEvent ? members.hex("contract", 20) : null,
    logIndex: isEvent ? members.number("logIndex", 2 ** 16) : null,
  };
}

/** The header of the block that has `root`. Raises InvalidInput if it has not. */
export function checkAnchor(anchor, root) {
  const header = readHeader(anchor.header);
  let found;
  if (anchor.method === "event") {
    const value = trieValue(header.receiptsRoot, anchor.index, anchor.proof);
    found = eventRoot(value, anchor.logIndex, anchor.contract);
  } else {
    found = inputRoot(trieValue(header.transactionsRoot, anchor.index, anchor.proof));
  }
  if (!equal(found, root)) throw new InvalidInput("the chain has another root", "anchors");
  return header;
}

/** A policy of blocks that the reader has of old. `blocks`: `chain:hash` in hex. */
export function pinned(blocks) {
  const known = new Set(blocks);
  return {
    trust: "pinned",
    depth: (chainId, hash) => (known.has(`${chainId}:${hex(hash)}`) ? "final" : "unknown"),
  };
}

/** A policy of named sources, of which `need` must say so. `sightings`: source, chainId, hash as
 * hex, final. */
export function quorum(sightings, need) {
  const depth = (chainId, hash) => {
    const said = sightings.filter((one) => one.chainId === chainId && one.hash === hex(hash));
    const count = (some) => new Set(some.map((one) => one.source)).size;
    if (count(said.filter((one) => one.final)) >= need) return "final";
    return count(said) >= need ? "confirmed" : "unknown";
  };
  return { trust: "quorum", depth };
}
