// What of Ethereum a verifier needs: RLP, Merkle Patricia proofs, headers, logs and inputs. Strict and
// small on purpose: every byte here is an attacker's.

import { bytesOf, concat, equal } from "./bytes.js";
import { InvalidInput } from "./errors.js";
import { keccak256 } from "./keccak.js";

const MAX_DEPTH = 16;
export const MAX_NODES = 64;
const ANCHORED = keccak256(bytesOf("Anchored(bytes32)"));
const INPUT_AT = { 0: 5, 1: 6, 2: 7 }; // place among the fields, by type (EIP-2718, 2930, 1559)

/** The one item that `data` is: bytes, or a list of items. Raises InvalidInput unless canonical. */
function decodeRlp(data) {
  const [item, end] = itemAt(data, 0, 0);
  if (end !== data.length) throw wrong("bytes follow the item");
  return item;
}

function itemAt(data, at, depth) {
  if (at >= data.length || depth > MAX_DEPTH) throw wrong("an item is cut off or too deep");
  const first = data[at];
  if (first < 0x80) return [data.slice(at, at + 1), at + 1];
  const isList = first >= 0xc0;
  let length = first - (isList ? 0xc0 : 0x80);
  let start = at + 1;
  if (length > 55) {
    const size = data.slice(start, start + length - 55);
    const isWhole = size.length === length - 55;
    start += length - 55;
    length = size.reduce((sum, byte) => sum * 256 + byte, 0);
    if (!isWhole || size[0] === 0 || length <= 55) throw wrong("a length is not canonical");
  }
  const end = start + length;
  if (end > data.length) throw wrong("an item is cut off");
  if (!isList) {
    if (length === 1 && data[start] < 0x80) throw wrong("a byte is not canonical");
    return [data.slice(start, end), end];
  }
  const items = [];
  while (start < end) {
    const [item, next] = itemAt(data, start, depth + 1);
    items.push(item);
    start = next;
  }
  if (start !== end) throw wrong("an item reaches over its list");
  return [items, end];
}

/** RLP of a whole number: the key of a transaction or receipt in its trie. */
function encodeNumber(number) {
  const bytes = [];
  for (let rest = number; rest > 0; rest = Math.floor(rest / 256)) bytes.unshift(rest % 256);
  if (bytes.length === 1 && bytes[0] < 0x80) return Uint8Array.from(bytes);
  return concat(Uint8Array.of(0x80 + bytes.length), Uint8Array.from(bytes));
}

function asList(item, least, what) {
  if (!Array.isArray(item) || item.length < least) throw wrong(`${what} is no list of ${least}`);
  return item;
}

function asBytes(item, size, what) {
  if (Array.isArray(item) || (size !== null && item.length !== size)) {
    throw wrong(`${what} is not of its length`);
  }
  return item;
}

/** A block's header, of those fields that we need. Raises InvalidInput. */
export function readHeader(data) {
  const fields = asList(decodeRlp(data), 15, "a header");
  return {
    number: small(fields[8], "a number"),
    time: small(fields[11], "a time"),
    transactionsRoot: asBytes(fields[4], 32, "a root"),
    receiptsRoot: asBytes(fields[5], 32, "a root"),
    hash: keccak256(data),
  };
}

function small(item, what) {
  const data = asBytes(item, null, what);
  if (data.length > 8 || data[0] === 0) throw wrong(`${what} is no number`);
  return data.reduce((sum, byte) => sum * 256 + byte, 0);
}

/** The value at RLP(index) under `root`. Raises InvalidInput unless it is proven, by every node. */
export function trieValue(root, index, proof) {
  if (proof.length > MAX_NODES) throw wrong("a proof has too many nodes");
  let key = nibbles(encodeNumber(index));
  let used = 0;
  let node = root;
  for (;;) {
    if (!Array.isArray(node)) {
      const next = proof[used++];
      if (node.length !== 32 || !next || !equal(keccak256(next), node)) {
        throw wrong("a node of the proof is not the one that is referred to");
      }
      node = decodeRlp(next);
    }
    const fields = asList(node, 2, "a node");
    if (fields.length === 17) {
      if (!key.length) return proven(fields[16], used === proof.length);
      node = fields[key[0]];
      key = key.slice(1);
      continue;
    }
    if (fields.length !== 2) throw wrong("a node has neither 2 nor 17 fields");
    const path = nibbles(asBytes(fields[0], null, "a path"));
    if (!path.length || path[0] > 3 || (!(path[0] & 1) && path[1] !== 0)) {
      throw wrong("a path's flag is unknown");
    }
    const tail = path.slice(path[0] & 1 ? 1 : 2);
    if (tail.length > key.length || tail.some((half, at) => half !== key[at])) {
      throw wrong("the proof leads to another key");
    }
    key = key.slice(tail.length);
    if (path[0] & 2) {
      if (key.length) throw wrong("the proof ends before the key");
      return proven(fields[1], used === proof.length);
    }
    node = fields[1];
  }
}

function proven(value, isAll) {
  const data = asBytes(value, null, "a value");
  if (!data.length || !isAll) throw wrong("the proof shows nothing, or more than it needs");
  return data;
}

function nibbles(data) {
  return Array.from(data).flatMap((byte) => [byte >> 4, byte & 15]);
}

/** The root that a log of `contract` announces. Raises InvalidInput. */
export function eventRoot(receipt, logIndex, contract) {
  const body = receipt[0] < 0x80 ? receipt.slice(1) : receipt;
  const [status, , , logs] = asList(decodeRlp(body), 4, "a receipt");
  if (Array.isArray(status) || !equal(status, [1])) throw wrong("the transaction failed");
  const log = asList(asList(logs, logIndex + 1, "the logs")[logIndex], 3, "a log");
  if (Array.isArray(log[0]) || !equal(log[0], contract)) throw wrong("the log is another contract's");
  const topics = asList(log[1], 2, "topics");
  if (topics.length !== 2 || Array.isArray(topics[0]) || !equal(topics[0], ANCHORED)) {
    throw wrong("the log is another event's");
  }
  return asBytes(topics[1], 32, "a root");
}

/** The root that is a transaction's whole input. Raises InvalidInput. */
export function inputRoot(transaction) {
  const isTyped = transaction[0] < 0x80;
  const kind = isTyped ? transaction[0] : 0;
  const at = INPUT_AT[kind];
  if (at === undefined || (kind === 0 && isTyped)) {
    throw wrong(`transactions of type ${kind} are not read`);
  }
  const data = kind ? transaction.slice(1) : transaction;
  return asBytes(asList(decodeRlp(data), at + 1, "a transaction")[at], 32, "a root");
}

function wrong(why) {
  return new InvalidInput(`no proof: ${why}`, "anchors");
}
