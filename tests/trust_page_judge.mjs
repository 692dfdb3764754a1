// Answers questions of the tests with the verification page's modules: in node, a JSON line in and one
// out; in a browser by `judge`.

import { base64, bytesOf, fromBase64Letters, hex, unhex, utf8 } from "../serve_apps/trust_page/bytes.js";
import { canonicalise, certificateIn } from "../serve_apps/trust_page/canonical.js";
import { decodeText } from "../serve_apps/trust_page/charsets.js";
import { parseKey } from "../serve_apps/trust_page/checkpoint.js";
import { verifies, verifiesHere } from "../serve_apps/trust_page/ed25519.js";
import { canonical, parse } from "../serve_apps/trust_page/json.js";
import { keccak256 } from "../serve_apps/trust_page/keccak.js";
import { rootFromInclusion } from "../serve_apps/trust_page/merkle.js";
import { pinned } from "../serve_apps/trust_page/receipt.js";
import { unescape } from "../serve_apps/trust_page/references.js";
import { sha256 } from "../serve_apps/trust_page/sha256.js";
import { relaxedBody } from "../serve_apps/trust_page/headers.js";
import { nfkc } from "../serve_apps/trust_page/unicode.js";
import { inspect, verify } from "../serve_apps/trust_page/verify.js";

const un64 = (text) => fromBase64Letters(text.replace(/=+$/, ""));
const table = await import("../serve_apps/trust_page/table_double.js");

function trustOf(question) {
  return {
    keys: question.keys.map(parseKey),
    headers: pinned(question.blocks ?? []),
    contracts: question.contracts ?? [],
    networks: question.networks ?? 1,
  };
}

function papersOf(question) {
  return {
    recipient: question.recipient,
    receipt: question.receipt && un64(question.receipt),
    revocations: (question.revocations ?? []).map(un64),
  };
}

function shown(verdict) {
  const seen = verdict.seen.map((one) => ({ ...one, hash: hex(one.hash) }));
  const bytes = (value) => value && hex(value);
  return { ...verdict, seen, leaf: bytes(verdict.leaf), root: bytes(verdict.root) };
}

const OPS = {
  verify: async (question) =>
    shown(
      await verify(
        un64(question.certificate), un64(question.message), trustOf(question), papersOf(question),
      ),
    ),
  inspect: async (question) =>
    shown(await inspect(un64(question.certificate), trustOf(question), papersOf(question))),
  canonical: async ({ message }) => {
    const found = await canonicalise(un64(message));
    return {
      exact: hex(found.exact),
      text: base64(found.text),
      links: found.links.map(({ at, origin }) => [at, origin]),
      digests: [hex(found.textDigest), hex(found.linksDigest)],
      origins: found.origins,
      domain: found.domain,
      messageId: found.messageId,
      recipients: found.recipients,
      selectors: found.selectors,
    };
  },
  carried: ({ message }) => {
    const found = certificateIn(un64(message));
    return found && base64(found);
  },
  json: ({ text }) => base64(canonical(parse(text))),
  charset: ({ bytes, label }) => decodeText(un64(bytes), label, table),
  keccak: ({ bytes }) => hex(keccak256(un64(bytes))),
  sha256: ({ bytes }) => hex(sha256(un64(bytes))),
  unescape: ({ text }) => unescape(text),
  nfkc: ({ text }) => nfkc(text),
  body: ({ bytes }) => base64(bytesOf(relaxedBody(String.fromCharCode(...un64(bytes))))),
  inclusion: ({ leaf, index, size, path }) =>
    hex(rootFromInclusion(unhex(leaf), index, size, path.map(unhex))),
  ed25519: async ({ key, signature, text }) => {
    const given = [unhex(key), unhex(signature), utf8(text)];
    return [await verifies(...given), verifiesHere(...given)];
  },
  time: async (question) => {
    const certificate = un64(question.certificate);
    const message = await canonicalise(un64(question.message));
    const trust = trustOf(question);
    const papers = papersOf(question);
    const start = performance.now();
    for (let at = 0; at < question.times; at++) await verify(certificate, message, trust, papers);
    return (performance.now() - start) / question.times;
  },
};

/** The answer, or `{error}` with the words of what was refused. */
export async function judge(question) {
  try {
    return { answer: await OPS[question.op](question) };
  } catch (error) {
    if (error.constructor.name !== "InvalidInput") throw error;
    return { error: error.message };
  }
}

if (globalThis.process?.argv) {
  const { createInterface } = await import("node:readline");
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await judge(JSON.parse(line)))}\n`);
  }
}
