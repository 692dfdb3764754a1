// Checkpoints: a tree's size and root as a C2SP signed note, and the keys that sign it.

import { base64, concat, equal, hex, strictBase64, utf8 } from "./bytes.js";
import { verifies } from "./ed25519.js";
import { InvalidInput } from "./errors.js";
import { sha256 } from "./sha256.js";

const MAX_SIGNATURES = 100;
const ORIGIN_DIGITS = 16;
const NAME = /^[!-*,-~]{1,200}$/;
const SIGNATURE = /^— ([!-*,-~]+) ([A-Za-z0-9+/]+={0,2})$/;

/** `name+id+base64`: a public key and the name that it signs for. Raises InvalidInput. */
export function parseKey(line) {
  const text = line.trim();
  const [name, claimed] = text.split("+", 2);
  const data = strictBase64(text.slice(name.length + (claimed ?? "").length + 2));
  if (data?.length !== 33 || data[0] !== 1) {
    throw new InvalidInput("not an Ed25519 verifier key", "key");
  }
  if (!NAME.test(name)) throw new InvalidInput("not a verifier key", "key");
  const id = sha256(concat(utf8(name), "\n", data)).slice(0, 4);
  if (hex(id) !== claimed) throw new InvalidInput("the key's id is not the key's", "key");
  return { name, id, public: data.slice(1), line: text };
}

/** Of a closed batch: each is a log of its own, named by its root. */
export function checkpointOf(name, size, root) {
  return { origin: `${name}/${hex(root).slice(0, ORIGIN_DIGITS)}`, size, root };
}

/** The key name that the origin begins with; empty unless it ends with the root's digits. */
export function nameOf(point) {
  const cut = point.origin.lastIndexOf("/");
  const fits = point.origin.slice(cut + 1) === hex(point.root).slice(0, ORIGIN_DIGITS);
  return cut >= 0 && fits ? point.origin.slice(0, cut) : "";
}

export function samePoint(a, b) {
  return a.origin === b.origin && a.size === b.size && equal(a.root, b.root);
}

/** Strict, byte for byte. Raises InvalidInput. */
export function readNote(note) {
  const cut = note.indexOf("\n\n");
  const lines = note.slice(0, Math.max(cut, 0)).split("\n");
  const tail = note.slice(cut + 2);
  if (cut < 0 || lines.length !== 3 || !tail.endsWith("\n")) {
    throw wrong("it is not three lines, a blank one, and signatures");
  }
  const [origin, size, encoded] = lines;
  if (!/^[!-~]{1,300}$/.test(origin)) throw wrong("its origin is not a name");
  if (!/^[1-9][0-9]{0,15}$/.test(size)) throw wrong("its size is not a number");
  const root = decoded(encoded);
  if (root.length !== 32) throw wrong("its root has not 32 bytes");
  const signatures = [];
  for (const line of tail.slice(0, -1).split("\n")) {
    const match = SIGNATURE.exec(line);
    if (!match || signatures.length === MAX_SIGNATURES) {
      throw wrong("a signature line is malformed, or there are too many");
    }
    const data = decoded(match[2]);
    if (data.length < 5) throw wrong("a signature is too short");
    signatures.push({ name: match[1], data });
  }
  return { checkpoint: { origin, size: Number(size), root }, signatures };
}

/** Trusted keys that signed this, each of the name that the origin begins with. None if a signature
 * of one of them is wrong or stands twice: else a note could be changed and still hold. */
export async function signersOf(note, keys) {
  const point = note.checkpoint;
  const name = nameOf(point);
  const text = utf8(`${point.origin}\n${point.size}\n${base64(point.root)}\n`);
  const found = [];
  for (const { name: signer, data } of note.signatures) {
    const key = keys.findLast((one) => one.name === name && equal(one.id, data.slice(0, 4)));
    if (!name || !key || signer !== name) continue;
    if (found.includes(key) || !(await verifies(key.public, data.slice(4), text))) return [];
    found.push(key);
  }
  return found;
}

function decoded(text) {
  const data = strictBase64(text);
  if (!data) throw wrong("base64 is broken or not canonical");
  return data;
}

function wrong(why) {
  return new InvalidInput(`not a checkpoint: ${why}`, "checkpoint");
}
