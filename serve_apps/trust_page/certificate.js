// The certificate in its two forms, and revocations (spec §6). Reading checks shape alone.

import { compare, utf8 } from "./bytes.js";
import { readList } from "./cbor.js";
import { InvalidInput } from "./errors.js";
import { readCanonical } from "./json.js";
import { KEY_BYTES, SALT_BYTES, hashOf } from "./leaf.js";
import { linksDigest } from "./links.js";
import { Members } from "./members.js";
import { HASH_BYTES, MAX_SIZE } from "./merkle.js";

const VERSION = 1;
const MAX_PATH = 40;
const MAX_LINKS = 4096;
const MAX_COMPACT_BYTES = 2048;
const MAX_NOTE = 32768;
const MAX_U32 = 2 ** 32 - 1;
export const REASONS = [
  "other", "sent in error", "content withdrawn", "key compromised", "person's request",
];

/** Either form: JSON begins with a brace. Raises InvalidInput that names the member. */
export function readCertificate(data) {
  return data[0] === 0x7b ? readJson(data) : readCbor(data);
}

function readJson(data) {
  const members = new Members(readCanonical(data), "", "checkpoint leaf proof type version");
  members.constant("type", "maily-certificate");
  members.constant("version", VERSION);
  const { leaf, origins } = readLeaf(members.get("leaf"));
  return {
    isFull: true,
    leaf,
    leafHash: hashOf(leaf),
    origins,
    proof: readProof(members.get("proof")),
    note: members.text("checkpoint", MAX_NOTE),
  };
}

function readLeaf(value) {
  const names = "dkim domain exact links messageId recipient salt text textBytes";
  const members = new Members(value, "leaf", names);
  const origins = members.items("links", MAX_LINKS);
  if (!origins.every((item) => typeof item === "string" && !item.includes("\n"))) {
    throw members.wrong("links", "are not all texts of one line");
  }
  const encoded = origins.map(utf8);
  if (encoded.some((item, at) => at > 0 && compare(encoded[at - 1], item) >= 0)) {
    throw members.wrong("links", "are not sorted, each once");
  }
  const domain = members.text("domain", 255);
  if (/[^\u0000-\u007f]/.test(domain)) throw members.wrong("domain", "is not ASCII");
  const leaf = {
    salt: members.hex("salt", SALT_BYTES),
    domain,
    messageId: bounded(members, "messageId", 4096),
    exact: members.hex("exact", HASH_BYTES),
    text: members.hex("text", HASH_BYTES),
    textBytes: members.number("textBytes", MAX_U32),
    links: linksDigest(origins),
    recipient: members.hex("recipient", HASH_BYTES),
    dkim: members.get("dkim") === null ? null : readDkim(members.get("dkim")),
  };
  return { leaf, origins };
}

function readDkim(value) {
  const members = new Members(value, "leaf.dkim", "key selector");
  const key = members.hex("key", KEY_BYTES);
  if (isZero(key)) throw members.wrong("key", "is the mark of unsigned messages");
  return { selector: bounded(members, "selector", 255), key };
}

function isZero(bytes) {
  return bytes.every((byte) => byte === 0);
}

/** Text whose UTF-8 has at most so many bytes. */
function bounded(members, name, limit) {
  const value = members.text(name, limit);
  if (utf8(value).length > limit) throw members.wrong(name, `has more than ${limit} bytes`);
  return value;
}

function readProof(value) {
  const members = new Members(value, "proof", "index path size");
  return {
    index: members.number("index", MAX_SIZE),
    size: members.number("size", MAX_SIZE),
    path: members.hexes("path", MAX_PATH, HASH_BYTES),
  };
}

/** Deterministic bytes and nothing after them. */
function readCbor(data) {
  if (data.length > MAX_COMPACT_BYTES) {
    throw new InvalidInput(`more than ${MAX_COMPACT_BYTES} bytes`, "certificate");
  }
  const value = readList(data);
  if (value.length !== 9) {
    throw new InvalidInput("not a certificate in compact form", "certificate");
  }
  if (value[0] !== BigInt(VERSION)) throw new InvalidInput("version is not 1", "version");
  const [, salt, seal, key, textBytes, index, size, path, signature] = value;
  const isBytes = (item, length) => item instanceof Uint8Array && item.length === length;
  const isNumber = (item, limit) => typeof item === "bigint" && item <= BigInt(limit);
  const isGood =
    isBytes(salt, SALT_BYTES) && isBytes(seal, HASH_BYTES) && isBytes(signature, 68) &&
    isNumber(textBytes, MAX_U32) && isNumber(index, MAX_SIZE) && isNumber(size, MAX_SIZE) &&
    (key === null || (isBytes(key, KEY_BYTES) && !isZero(key))) &&
    path instanceof Uint8Array && path.length % HASH_BYTES === 0 &&
    path.length <= MAX_PATH * HASH_BYTES;
  if (!isGood) throw new InvalidInput("a member is not of its kind", "certificate");
  const numbers = [textBytes, index, size].map(Number);
  const nodes = [];
  for (let at = 0; at < path.length; at += HASH_BYTES) nodes.push(path.slice(at, at + HASH_BYTES));
  return {
    isFull: false,
    salt,
    seal,
    key,
    textBytes: numbers[0],
    proof: { index: numbers[1], size: numbers[2], path: nodes },
    signature,
  };
}

/** Raises InvalidInput that names the member. */
export function readRevocation(data) {
  const members = new Members(readCanonical(data), "", "checkpoint entry proof type version");
  members.constant("type", "maily-revocation");
  members.constant("version", VERSION);
  const entry = new Members(members.get("entry"), "entry", "leaf reason time");
  return {
    leaf: entry.hex("leaf", HASH_BYTES),
    time: entry.number("time"),
    reason: entry.number("reason", REASONS.length - 1),
    proof: readProof(members.get("proof")),
    note: members.text("checkpoint", MAX_NOTE),
  };
}
