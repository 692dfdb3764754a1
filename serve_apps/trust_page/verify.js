// Verification by the numbered steps of the spec (§7). No clock, no network.

import { hex, lenientUtf8 } from "./bytes.js";
import { canonicalise } from "./canonical.js";
import { readCertificate, readRevocation } from "./certificate.js";
import { nameOf, readNote, samePoint, signersOf } from "./checkpoint.js";
import { Failed, InvalidInput } from "./errors.js";
import { normalAddress } from "./headers.js";
import { revocationHash } from "./leaf.js";
import { Level } from "./levels.js";
import { included, matchCompact, matchFull } from "./match.js";
import { checkAnchor, readReceipt } from "./receipt.js";
import { emptyVerdict } from "./verdict.js";

/** The verdict of a certificate's bytes on a message's (or its canonical form). Never raises for what
 * it is given.
 *
 * `policy`: `keys` (of checkpoint.parseKey), and as needed `headers` (of receipt.js), `contracts`
 * (`chain:address` that count; none: any), `networks` (how many chains), `rest` (see levels.js).
 * `papers`: as bytes `receipt` and the list `revocations`; and `recipient`, whom the message came to
 * if that is known, else those in To.
 */
export async function verify(certificate, message, policy, papers = {}) {
  try {
    const parsed = parsedCertificate(certificate);
    const canonical = message instanceof Uint8Array ? await canonicalise(message) : message;
    const people = papers.recipient ? [normalAddress(papers.recipient)] : canonical.recipients;
    const match = parsed.isFull ? matchFull : matchCompact;
    const found = await match(parsed, canonical, people, policy);
    const verdict = verdictOf(found, canonical, parsed);
    return { ...(await withPapers(verdict, found.note, policy, papers)), holds: true };
  } catch (error) {
    return refused(error);
  }
}

/** What holds of a full certificate with no message at hand: all but steps 3 and 4. */
export async function inspect(certificate, policy, papers = {}) {
  try {
    const parsed = parsedCertificate(certificate);
    if (!parsed.isFull) throw new Failed(3, "the compact form says nothing without the message");
    const { leafHash, proof, note: text, leaf } = parsed;
    const { note, signers } = await included(leafHash, proof, text, policy.keys);
    const verdict = {
      ...emptyVerdict(),
      domain: leaf.domain,
      signers: signers.map((key) => key.name),
      leaf: leafHash,
      root: note.checkpoint.root,
    };
    return { ...(await withPapers(verdict, note, policy, papers)), holds: true };
  } catch (error) {
    return refused(error);
  }
}

function refused(error) {
  if (!(error instanceof Failed)) throw error;
  const partial = error.partial ?? emptyVerdict();
  return { ...partial, holds: false, failedStep: error.step, reason: error.message };
}

function parsedCertificate(data) {
  try {
    return readCertificate(data);
  } catch (error) {
    if (!(error instanceof InvalidInput)) throw error;
    throw new Failed(error.field === "version" ? 2 : 1, error.message);
  }
}

function verdictOf({ match, note, signers }, message, parsed) {
  const { window } = match;
  const size = parsed.isFull ? parsed.leaf.textBytes : parsed.textBytes;
  const before = window ? message.text.subarray(0, window.begin) : new Uint8Array(0);
  const after = window ? message.text.subarray(window.begin + size) : new Uint8Array(0);
  const verdict = {
    ...emptyVerdict(),
    ...match.facts,
    level: match.level,
    differs: match.differs,
    domain: match.domain,
    signers: signers.map((key) => key.name),
    addedBytes: before.length + after.length,
    addedBefore: lenientUtf8(before),
    addedAfter: lenientUtf8(after),
    addedOrigins: window ? window.added : [],
    leaf: match.leaf,
    root: note.checkpoint.root,
  };
  if (parsed.isFull && !window) {
    const { origins } = parsed;
    verdict.addedOrigins = message.origins.filter((origin) => !origins.includes(origin));
    verdict.missingOrigins = origins.filter((origin) => !message.origins.includes(origin));
  }
  if (match.level === Level.DIFFERENT) throw new Failed(4, difference(match.differs), verdict);
  if (match.level === Level.LINKS) {
    throw new Failed(4, "the text is not the certified one; its links are", verdict);
  }
  return verdict;
}

function difference(differs) {
  if (differs.includes("links") && !differs.includes("text")) {
    return "the text is the certified one, but its links lead elsewhere";
  }
  return "the certificate is genuine, but of another message";
}

async function withPapers(verdict, note, policy, papers) {
  await revoked(verdict, note, policy, papers.revocations ?? []);
  return papers.receipt ? anchored(verdict, note, policy, papers.receipt) : verdict;
}

async function revoked(verdict, note, policy, revocations) {
  for (const data of revocations) {
    const entry = await provenRevocation(data, verdict.leaf, policy.keys);
    if (entry && entry.name === nameOf(note.checkpoint)) {
      const { time, reason } = entry;
      const partial = { ...verdict, state: "revoked", revokedAt: time, revokedWhy: reason };
      throw new Failed(8, "the issuer has revoked it", partial);
    }
  }
}

/** Anybody can write one; only a proven one counts. Null for any other. */
async function provenRevocation(data, leaf, keys) {
  try {
    const entry = readRevocation(data);
    if (hex(entry.leaf) !== hex(leaf)) return null;
    const hash = revocationHash(entry.leaf, entry.time, entry.reason);
    const { note } = await included(hash, entry.proof, entry.note, keys);
    return { ...entry, name: nameOf(note.checkpoint) };
  } catch (error) {
    if (error instanceof Failed || error instanceof InvalidInput) return null;
    throw error;
  }
}

async function anchored(verdict, note, policy, data) {
  if (!policy.headers) throw new Failed(9, "a receipt needs a policy for block headers", verdict);
  const needed = policy.networks ?? 1;
  const contracts = policy.contracts ?? [];
  const seen = [];
  let reason = "the receipt has no anchor";
  try {
    const receipt = readReceipt(data);
    const theirs = readNote(receipt.note);
    const isOurs = samePoint(theirs.checkpoint, note.checkpoint);
    if (!isOurs || !(await signersOf(theirs, policy.keys)).length) {
      throw new InvalidInput("the receipt is another batch's, or not signed by a trusted key");
    }
    for (const anchor of receipt.anchors) {
      const where = anchor.contract && `${anchor.chainId}:${hex(anchor.contract)}`;
      if (where && contracts.length && !contracts.includes(where)) {
        reason = "the event is of a contract that the reader does not trust";
        continue;
      }
      const { chainId } = anchor;
      const { number, time, hash } = checkAnchor(anchor, note.checkpoint.root);
      const depth = policy.headers.depth(chainId, hash);
      if (depth === "unknown") {
        reason = `block ${number} of chain ${chainId} is not known as its own`;
      } else {
        seen.push({ chainId, number, time, hash, final: depth === "final" });
      }
    }
  } catch (error) {
    if (error instanceof InvalidInput) throw new Failed(9, error.message, verdict);
    throw error;
  }
  const chains = (some) => new Set(some.map((one) => one.chainId)).size;
  if (chains(seen) < needed) {
    const partial = { ...verdict, seen };
    throw new Failed(9, `${chains(seen)} of ${needed} networks: ${reason}`, partial);
  }
  const isFinal = chains(seen.filter((one) => one.final)) >= needed;
  return { ...verdict, state: isFinal ? "final" : "confirmed", seen };
}
