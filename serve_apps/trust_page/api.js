// What the site has on a certificate. Its word is shown as such; only the papers are verified.

import { concat, hex, utf8 } from "./bytes.js";
import { readCertificate } from "./certificate.js";
import { readNote } from "./checkpoint.js";
import { InvalidInput } from "./errors.js";
import { canonical } from "./json.js";

const TIMEOUT_MS = 15_000;
const MAX_PAGES = 20;
const MAX_BYTES = 4 << 20;

/** Papers of a certificate: `view`, `certificate`, `keys`, `receipt`, `revocations` and when these were
 * looked up (`looked`); what can't be had is null, and `trouble` says why ("missing", "gone",
 * "unreachable", "busy"). */
export async function fetchPapers(id, base) {
  const papers = { view: null, certificate: null, keys: [], receipt: null, revocations: [] };
  const [view, certificate, keys] = await Promise.all([
    get(`${base}certificates/${id}`),
    get(`${base}certificates/${id}.json`),
    get(`${base}keys`),
  ]);
  papers.view = parsed(view);
  papers.certificate = certificate.bytes;
  papers.keys = parsed(keys)?.keys ?? [];
  papers.trouble = view.trouble ?? (certificate.trouble === "gone" ? "gone" : null);
  const read = readable(papers.certificate);
  const leaf = read ? hex(read.leafHash) : papers.view?.leaf;
  const root = read ? hex(readNote(read.note).checkpoint.root) : papers.view?.root;
  const [receipt, revocations] = await Promise.all([
    root ? get(`${base}receipts/${root}`) : { bytes: null },
    leaf ? revocationsOf(leaf, base) : null,
  ]);
  papers.receipt = receipt.bytes;
  papers.revocations = revocations ?? [];
  papers.looked = revocations === null ? null : new Date().toISOString();
  return papers;
}

function readable(data) {
  try {
    const read = data && readCertificate(data);
    if (read) readNote(read.note);
    return read;
  } catch (error) {
    if (error instanceof InvalidInput) return null;
    throw error;
  }
}

/** Null if the site did not say: then nobody knows. */
async function revocationsOf(leaf, base) {
  const found = [];
  let after = "";
  for (let page = 0; page < MAX_PAGES; page++) {
    const answer = parsed(await get(`${base}revocations?leaf=${leaf}${after}`));
    if (!Array.isArray(answer?.revocations)) return null;
    for (const entry of answer.revocations) found.push(canonical(entry));
    if (!answer.next) break;
    after = `&after=${encodeURIComponent(answer.next)}`;
  }
  return found;
}

async function get(address) {
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const answer = await fetch(address, { signal, credentials: "omit", cache: "no-cache" });
    if (answer.ok) return { bytes: await bounded(answer), trouble: null };
    const trouble = { 404: "missing", 409: "open", 410: "gone", 429: "busy" }[answer.status];
    return { bytes: null, trouble: trouble ?? "unreachable" };
  } catch {
    return { bytes: null, trouble: "unreachable" };
  }
}

async function bounded(answer) {
  const reader = answer.body.getReader();
  const pieces = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return concat(...pieces);
    length += value.length;
    if (length > MAX_BYTES) throw new Error("the answer is too long");
    pieces.push(value);
  }
}

function parsed({ bytes }) {
  try {
    return bytes && JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
}

/** Papers as text, to be kept in a saved page, and back. */
export function packed(papers) {
  const text = (bytes) => bytes && hex(bytes);
  return {
    ...papers,
    certificate: text(papers.certificate),
    compact: text(papers.compact),
    receipt: text(papers.receipt),
    revocations: papers.revocations.map(hex),
  };
}

export function unpacked(saved) {
  const bytes = (text) => text && Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
  return {
    ...saved,
    certificate: bytes(saved.certificate),
    compact: bytes(saved.compact),
    receipt: bytes(saved.receipt),
    revocations: saved.revocations.map(bytes),
  };
}

/** Text as bytes of a message that was pasted. */
export function pastedMessage(text) {
  return utf8(text.replace(/^\s*\n/, ""));
}
