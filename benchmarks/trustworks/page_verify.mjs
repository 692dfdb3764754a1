// The verification page's own verifier in node: a case as a JSON line in, its answer as a line out.

import { createInterface } from "node:readline";
import { fromBase64Letters } from "../../serve_apps/trust_page/bytes.js";
import { canonicalise } from "../../serve_apps/trust_page/canonical.js";
import { parseKey } from "../../serve_apps/trust_page/checkpoint.js";
import { pinned } from "../../serve_apps/trust_page/receipt.js";
import { verify } from "../../serve_apps/trust_page/verify.js";

const bytes = (text) => fromBase64Letters(text.replace(/=+$/, ""));
let trust = null;

async function answer(question) {
  if (question.keys) {
    const { keys, blocks, contracts } = question;
    trust = { keys: keys.map(parseKey), headers: pinned(blocks), contracts, networks: 1 };
    return {};
  }
  const papers = {
    receipt: question.receipt && bytes(question.receipt),
    revocations: question.revocation ? [bytes(question.revocation)] : [],
  };
  const certificate = bytes(question.certificate);
  let message = bytes(question.message);
  if (question.parsed) message = await canonicalise(message);
  const began = performance.now();
  const found = await verify(certificate, message, trust, papers);
  const ms = performance.now() - began;
  return { holds: found.holds, level: found.level, state: found.state, step: found.failedStep, ms };
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
}
