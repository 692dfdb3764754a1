// The leaf: what the tree commits to for one message (spec §5).

import { bytesOf, concat, utf8 } from "./bytes.js";
import { normalAddress } from "./headers.js";
import { sha256 } from "./sha256.js";

export const SALT_BYTES = 16;
export const KEY_BYTES = 16;

/** Who has salt and address can check it; the leaf's hash alone tells nothing. */
export function recipientCommitment(salt, address) {
  return sha256("maily-rcpt-v1\n", salt, utf8(normalAddress(address)));
}

/** Binds what a rewritten copy no longer shows. */
export function sealOf(exact, recipient, selector, messageId) {
  const tail = [...counted(selector), ...counted(messageId)];
  return sha256("maily-seal-v1\n", exact, recipient, ...tail);
}

function counted(text) {
  const bytes = utf8(text);
  return [Uint8Array.of(bytes.length >> 8, bytes.length & 255), bytes];
}

/** `key`: null when the message is not signed. */
export function leafHash({ salt, links, text, textBytes, key, seal, domain }) {
  const size = new Uint8Array(4);
  new DataView(size.buffer).setUint32(0, textBytes);
  const name = bytesOf(domain);
  return sha256(
    concat(
      "\0maily-leaf-v1\n", salt, links, text, size, key ?? new Uint8Array(KEY_BYTES), seal,
      Uint8Array.of(name.length), name,
    ),
  );
}

/** Of a full certificate's leaf. */
export function hashOf(leaf) {
  const selector = leaf.dkim?.selector ?? "";
  const seal = sealOf(leaf.exact, leaf.recipient, selector, leaf.messageId);
  return leafHash({ ...leaf, key: leaf.dkim?.key ?? null, seal });
}

/** The leaf hash of a revocation of the leaf with hash `leaf` (spec §6). */
export function revocationHash(leaf, time, reason) {
  const tail = new Uint8Array(9);
  new DataView(tail.buffer).setBigUint64(0, BigInt(time));
  tail[8] = reason;
  return sha256("\0maily-revoke-v1\n", leaf, tail);
}
