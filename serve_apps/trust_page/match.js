// Steps 4 to 7 of the spec: is the message at hand the certified one, and who signed that?

import { equal } from "./bytes.js";
import { checkpointOf, nameOf, readNote, signersOf } from "./checkpoint.js";
import { Failed, InvalidInput } from "./errors.js";
import { leafHash, recipientCommitment, sealOf } from "./leaf.js";
import { Level, begins, windowsAt } from "./levels.js";
import { rootFromInclusion } from "./merkle.js";
import { emptyVerdict } from "./verdict.js";

const MAX_READINGS = 16; // of the links at a window's ends: each costs a signature check for every key

function rootOf(leaf, proof) {
  try {
    return rootFromInclusion(leaf, proof.index, proof.size, proof.path);
  } catch (error) {
    if (error instanceof InvalidInput) throw new Failed(5, error.message);
    throw error;
  }
}

/** Steps 5 to 7 for a leaf with its whole note. Raises Failed. */
export async function included(leaf, proof, text, keys) {
  const root = rootOf(leaf, proof);
  const note = noteOf(text);
  const point = note.checkpoint;
  if (!equal(point.root, root) || point.size !== proof.size || !nameOf(point)) {
    throw new Failed(6, "the proof does not lead to the root of the checkpoint");
  }
  const signers = await signersOf(note, keys);
  if (!signers.length) throw new Failed(7, "no trusted key has signed the checkpoint");
  return { note, signers };
}

function noteOf(text) {
  try {
    return readNote(text);
  } catch (error) {
    if (error instanceof InvalidInput) throw new Failed(1, error.message);
    throw error;
  }
}

export async function matchFull(certificate, message, people, policy) {
  const { leaf } = certificate;
  const { note, signers } = await included(
    certificate.leafHash, certificate.proof, certificate.note, policy.keys,
  );
  const isText = equal(message.textDigest, leaf.text);
  const sameText = leaf.textBytes > 0 && isText;
  const sameLinks = equal(message.linksDigest, leaf.links);
  const exact = equal(message.exact, leaf.exact);
  const isHeld = (one) => equal(recipientCommitment(leaf.salt, one), leaf.recipient);
  const facts = {
    sender: message.domain === leaf.domain ? "same" : "other",
    messageId: message.messageId === leaf.messageId ? "same" : "other",
    recipient: !people.length ? "unknown" : people.some(isHeld) ? "same" : "other",
  };
  let level = exact && isText && sameLinks ? Level.EXACT : Level.TEXT;
  let window = null;
  if (level !== Level.EXACT && !(sameText && sameLinks)) {
    window = await windowOf(leaf, message, policy.rest);
    level = window ? Level.EXTENDED
      : sameLinks && certificate.origins.length ? Level.LINKS : Level.DIFFERENT;
  }
  const differs = [];
  if (!exact) differs.push("headers or body");
  if (!sameText && !exact && !window) differs.push("text");
  if (!sameLinks && !window) differs.push("links");
  if (facts.sender === "other") differs.push("sender");
  if (facts.messageId === "other") differs.push("message id");
  if (facts.recipient === "other") differs.push("recipient");
  const match = { level, leaf: certificate.leafHash, window, facts, differs, domain: leaf.domain };
  return { match, note, signers };
}

async function windowOf(leaf, message, rest) {
  for (const begin of await begins(message, leaf.textBytes, leaf.text, rest)) {
    const windows = await windowsAt(message, begin, leaf.textBytes);
    const found = windows.find((window) => equal(window.linksDigest, leaf.links));
    if (found) return found;
  }
  return null;
}

/** The leaf is rebuilt from the message; the first of a few readings that is signed counts. */
export async function matchCompact(compact, message, people, policy) {
  const { proof, signature } = compact;
  const readings = await rebuilt(compact, message);
  for (const { leaf, window } of readings) {
    const root = rootOf(leaf, proof);
    for (const key of policy.keys) {
      const checkpoint = checkpointOf(key.name, proof.size, root);
      const note = { checkpoint, signatures: [{ name: key.name, data: signature }] };
      if ((await signersOf(note, [key])).length) {
        return { match: matched(compact, message, people, leaf, window), note, signers: [key] };
      }
    }
  }
  if (!readings.length) {
    rootOf(new Uint8Array(32), proof);
    const verdict = { ...emptyVerdict(), differs: ["text"] };
    throw new Failed(4, "the text is not the certified one", verdict);
  }
  const reason =
    "no trusted key has signed a tree with this message: it is another message or sender, " +
    "or the certificate is not genuine (the full form tells which)";
  const differs = ["text, links, sender or certificate"];
  throw new Failed(7, reason, { ...emptyVerdict(), differs });
}

/** Leaf hashes of the ways to read the message. */
async function rebuilt(compact, message) {
  const { salt, seal, key, textBytes } = compact;
  const readings = [];
  const add = (text, links, window) => {
    const parts = { salt, links, text, textBytes, key, seal, domain: message.domain };
    readings.push({ leaf: leafHash(parts), window });
  };
  if (textBytes === message.text.length) add(message.textDigest, message.linksDigest, null);
  for (const begin of await begins(message, textBytes)) {
    const windows = await windowsAt(message, begin, textBytes);
    for (const found of windows.slice(0, MAX_READINGS)) {
      add(found.textDigest, found.linksDigest, found);
    }
  }
  return readings;
}

function matched(compact, message, people, leaf, window) {
  const { domain } = message;
  if (!window && opens(compact, message, people)) {
    const recipient = people.length ? "same" : "unknown";
    const facts = { sender: "same", messageId: "same", recipient };
    return { level: Level.EXACT, leaf, window: null, facts, differs: [], domain };
  }
  // An empty text says nothing: only the whole message does.
  const level = compact.textBytes === 0 ? Level.DIFFERENT : window ? Level.EXTENDED : Level.TEXT;
  const differs = ["headers or body, or the recipient"];
  return { level, leaf, window, facts: { sender: "same" }, differs, domain };
}

/** Whether the seal is this message's: then nothing was altered. */
function opens(compact, message, people) {
  return (people.length ? people : [""]).some((person) => {
    const recipient = recipientCommitment(compact.salt, person);
    return [...message.selectors, ""].some((selector) =>
      equal(sealOf(message.exact, recipient, selector, message.messageId), compact.seal),
    );
  });
}
