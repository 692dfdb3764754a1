// What is known of a certificate, with the email or without: the verdict, its steps, the chains.

import { equal, hex, utf8 } from "./bytes.js";
import { canonicalise, certificateIn } from "./canonical.js";
import { readCertificate } from "./certificate.js";
import { parseKey } from "./checkpoint.js";
import { InvalidInput } from "./errors.js";
import { readHeader } from "./evm.js";
import { checkAnchor, pinned, quorum, readReceipt } from "./receipt.js";
import { sightingsOf } from "./rpc.js";
import { stepsOf } from "./steps.js";
import { asWritten } from "./text.js";
import { inspect, verify } from "./verify.js";

const rest = () => new Promise((resolve) => setTimeout(resolve));

/** `papers`: of api.js, and `compact` from the link. `message`: bytes, or null. `own`: what the reader
 * entered: `recipient`, `keys`, `blocks`, `nodes`, `need`. */
export async function assess(papers, message, own) {
  const keys = own.keys.length ? own.keys : keysOf(papers.keys);
  const carried = message && certificateIn(message);
  const certificate = papers.certificate ?? papers.compact ?? carried;
  const parsed = attempt(() => certificate && readCertificate(certificate));
  const situation = {
    papers, own, keys, parsed,
    hasMessage: message !== null,
    hasCertificate: certificate !== null && certificate !== undefined,
    source: papers.certificate ? "site" : papers.compact ? "link" : carried ? "email" : "none",
    linkDiffers: !agree(papers),
    verdict: null, anchors: [], steps: [], added: { before: "", after: "" },
  };
  if (!situation.hasCertificate) return situation;
  const receipt = attempt(() => papers.receipt && readReceipt(papers.receipt));
  const headers = await headersOf(receipt, own);
  const trust = { keys, headers, rest };
  const given = {
    recipient: own.recipient,
    receipt: headers ? papers.receipt : null,
    revocations: papers.revocations,
  };
  if (message) {
    const canonical = await canonicalise(message);
    situation.verdict = await verify(certificate, canonical, trust, given);
    situation.added = addedTo(canonical, situation.verdict);
  } else {
    situation.verdict = await inspect(certificate, trust, given);
  }
  situation.anchors = anchorsOf(receipt, situation.verdict, headers, papers.view);
  situation.hasPolicy = headers !== null;
  situation.steps = stepsOf(situation);
  return situation;
}

/** What stands around the certified text, as it was written. */
function addedTo({ text, pieces }, { addedBefore, addedAfter }) {
  const end = text.length - utf8(addedAfter).length;
  return {
    before: addedBefore && asWritten(pieces, 0, utf8(addedBefore).length),
    after: addedAfter && asWritten(pieces, end, text.length),
  };
}

function attempt(read) {
  try {
    return read();
  } catch (error) {
    if (error instanceof InvalidInput) return null;
    throw error;
  }
}

function keysOf(lines) {
  return lines.map((line) => attempt(() => parseKey(line))).filter((key) => key !== null);
}

/** Whether the link's proof and the site's certificate are of the same leaf. */
function agree({ certificate, compact }) {
  if (!certificate || !compact) return true;
  const full = attempt(() => readCertificate(certificate));
  const small = attempt(() => readCertificate(compact));
  if (!full?.isFull || !small || small.isFull) return false;
  const isSame = full.proof.index === small.proof.index && full.proof.size === small.proof.size;
  return isSame && equal(full.leaf.salt, small.salt);
}

/** The reader's own word on blocks, or null if there is none. */
async function headersOf(receipt, own) {
  if (!own.blocks.length && !own.nodes.length) return null;
  const known = pinned(own.blocks);
  const blocks = (receipt?.anchors ?? [])
    .map((anchor) => ({ chainId: anchor.chainId, header: attempt(() => readHeader(anchor.header)) }))
    .filter(({ header }) => header)
    .map(({ chainId, header }) => ({ chainId, number: header.number, hash: hex(header.hash) }));
  const asked = quorum(await sightingsOf(own.nodes, blocks), own.need);
  const depth = (chainId, hash) =>
    known.depth(chainId, hash) === "final" || !own.nodes.length
      ? known.depth(chainId, hash)
      : asked.depth(chainId, hash);
  return { trust: "own", depth };
}

/** Each anchor of the receipt: what its proof shows, what the reader's sources say of the block, and
 * what the site says. Anchors that the site tells of and no receipt proves come after. */
function anchorsOf(receipt, verdict, headers, view) {
  const words = [...(view?.anchors ?? [])];
  const found = (receipt?.anchors ?? []).map((anchor) => {
    const header = verdict.root && attempt(() => checkAnchor(anchor, verdict.root));
    const isSame = (word) =>
      word.chain_id === anchor.chainId && header && word.block_hash === `0x${hex(header.hash)}`;
    const at = words.findIndex(isSame);
    return {
      chainId: anchor.chainId,
      method: anchor.method,
      contract: anchor.contract && hex(anchor.contract),
      isProven: Boolean(header),
      header: header || null,
      depth: header && headers ? headers.depth(anchor.chainId, header.hash) : null,
      word: at < 0 ? null : words.splice(at, 1)[0],
    };
  });
  const others = words.map((word) => ({
    chainId: word.chain_id, isProven: false, header: null, depth: null, word,
  }));
  return [...found, ...others];
}
