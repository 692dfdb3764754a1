// The nine steps of the spec (§7) with what came of each, for people.

import { Level } from "./levels.js";

const STEPS = [
  ["Read the certificate", "It is complete, has no part that is not checked, and is in its one exact form."],
  ["Version", "It follows the rules that this page knows; no older, weaker ones."],
  ["Read the email", "What was compared was worked out from the email itself, nothing was taken on trust."],
  ["Compare", "Subject, sender, text and links of the email against what was certified."],
  ["Place in the batch", "The proof fits the email’s place among all that were certified with it."],
  ["Batch", "The proof leads to the very batch that was signed."],
  ["Signature", "The batch was signed with a key that this check trusts."],
  ["Not taken back", "The issuer has not revoked the certificate."],
  ["Public record", "The batch is in a block of a public network: it existed by then."],
];

// With the full form the certificate is checked before the email is looked at.
const FULL = [1, 2, 5, 6, 7, 3, 4, 8, 9];
const COMPACT = [1, 2, 3, 4, 5, 6, 7, 8, 9];

/** For each step `result` (good, bad, part, wait) and `said`, one line. */
export function stepsOf(situation) {
  const { verdict, parsed, hasMessage } = situation;
  const isFull = parsed ? parsed.isFull : true;
  const order = isFull ? FULL : COMPACT;
  const failedAt = verdict.failedStep === null ? order.length : order.indexOf(verdict.failedStep);
  return STEPS.map(([title, about], at) => {
    const number = at + 1;
    const place = order.indexOf(number);
    let step = { result: "good", said: "Holds" };
    if (!hasMessage && (number === 3 || number === 4)) {
      step = { result: "wait", said: "Waits for the email" };
    } else if (!hasMessage && !isFull && place > 1) {
      step = { result: "wait", said: "Waits for the email" };
    } else if (place === failedAt) {
      step = { result: "bad", said: verdict.reason };
    } else if (place > failedAt) {
      step = { result: "wait", said: "Not reached" };
    } else if (!isFull && number === 4 && verdict.failedStep === 7) {
      step = { result: "part", said: "The small form can’t tell this from step 7" };
    } else {
      step = detail(number, situation) ?? step;
    }
    return { number, title, about, ...step };
  });
}

function detail(number, { verdict, papers, anchors, hasPolicy, hasMessage }) {
  if (number === 4 && hasMessage) return compared(verdict);
  if (number === 7) {
    return { result: "good", said: `Signed by ${[...new Set(verdict.signers)].join(", ")}` };
  }
  if (number === 8) {
    if (papers.view?.revoked) {
      return { result: "bad", said: "Taken back, by the site’s word; the proof is on its way" };
    }
    if (!papers.looked) return { result: "part", said: "No list of revocations is at hand" };
    return { result: "good", said: `Not revoked, as of ${moment(papers.looked)}` };
  }
  if (number !== 9) return null;
  if (hasPolicy && verdict.seen.length) {
    return { result: "good", said: `${blocks(verdict.seen)}, by your own sources` };
  }
  const proven = anchors.filter((anchor) => anchor.isProven);
  if (proven.length) {
    const headers = proven.map(({ chainId, header }) => ({ chainId, number: header.number }));
    return {
      result: "part",
      said: `The proof leads to ${blocks(headers)}. ` +
        "That the block is the network’s own is this site’s word",
    };
  }
  return { result: "wait", said: "Not recorded yet, or no receipt is at hand" };
}

function compared({ level }) {
  if (level === Level.EXACT) return { result: "good", said: "Exactly the same email" };
  if (level === Level.TEXT) return { result: "good", said: "The same words and links" };
  return { result: "part", said: "The certified text, and more around it" };
}

function blocks(some) {
  return some.map(({ chainId, number }) => `block ${number} of chain ${chainId}`).join(" and ");
}

/** A time as people read it, in UTC. `when`: ISO text or seconds since 1970. */
export function moment(when) {
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  if (Number.isNaN(date.getTime())) return "an unknown time";
  const options = {
    day: "numeric", month: "long", year: "numeric", hour: "2-digit", minute: "2-digit", timeZone: "UTC",
  };
  return `${new Intl.DateTimeFormat("en-GB", options).format(date)} UTC`;
}
