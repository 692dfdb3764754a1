// What the page says in large words, and what it asks to note. `tone` is one of good, warn, bad,
// neutral, wait.

import { REASONS } from "./certificate.js";
import { Level } from "./levels.js";
import { moment } from "./steps.js";

const NOT_COVERED =
  "Mail systems do this on the way. Subject, pictures and attachments are not covered then, nor " +
  "styling that could hide words.";

/** `tone`, `title` and `lead` of the answer. */
export function headline(situation) {
  const { verdict, hasMessage, hasCertificate, keys } = situation;
  if (!hasCertificate) return withoutCertificate(situation);
  if (verdict.state === "revoked") return revoked(verdict);
  const word = situation.papers.view?.revoked;
  if (word && verdict.holds) {
    return say("bad", "Taken back, as the site says", `On ${moment(word.at)}, reason: ${word.reason}. ` +
      "The proof of that is still on its way. Do not rely on this email.");
  }
  if (!keys.length) {
    return say("warn", "There is no key to check with", "The site’s public keys could not be read. " +
      "If you have a key from elsewhere, enter it below.");
  }
  if (!hasMessage) return withoutMessage(situation);
  return withMessage(situation);
}

function say(tone, title, lead) {
  return { tone, title, lead };
}

function withoutCertificate({ papers, hasMessage }) {
  if (hasMessage && papers.trouble !== "missing") {
    return say("warn", "No certificate to check this email by",
      "Neither this page nor the email holds one.");
  }
  if (papers.view?.state === "open") {
    return say("wait", "Taken in, not sealed yet", "This email is on record, and its batch is about " +
      "to be sealed. Look again in a few minutes: then it can be proven.");
  }
  if (papers.view?.forgotten || papers.trouble === "gone") {
    return say("neutral", "The personal data was erased", "What tied this certificate to a person was " +
      "erased on request. If the email itself carries its certificate, you can still check it below.");
  }
  if (papers.trouble === "missing") {
    return say("bad", "There is no such certificate here", "The link may be mistyped, or made up. A " +
      "genuine email’s link opens its certificate.");
  }
  if (papers.trouble === "busy") {
    return say("warn", "Too many look-ups just now", "Wait a minute, then load this page again.");
  }
  return say("warn", "The site can’t be reached", "Load this page again in a while. If the email itself " +
    "carries its certificate, you can already choose it below.");
}

function revoked(verdict) {
  const why = REASONS[verdict.revokedWhy];
  const reason = why && why !== "other" ? ` Reason: ${why}.` : "";
  return say("bad", "The sender has taken this certificate back",
    `Revoked on ${moment(verdict.revokedAt)}.${reason} Do not rely on this email.`);
}

function withoutMessage({ verdict, parsed, source }) {
  if (parsed && !parsed.isFull) {
    const where = source === "link" ? "Your link holds the whole proof." : "The proof is here.";
    return say("neutral", "Now choose the email", `${where} It says nothing without the email itself.`);
  }
  if (!verdict.holds) {
    return say("bad", "This certificate does not hold", `${sentence(verdict.reason)} Do not rely on it.`);
  }
  const who = verdict.domain ? ` for an email from ${verdict.domain}` : "";
  return say("neutral", "This certificate is genuine",
    `It was issued by ${verdict.signers[0]}${who}. Now see whether the email that you have is the one.`);
}

function withMessage({ verdict, parsed }) {
  if (!verdict.holds) return refused(verdict, parsed);
  if (verdict.recipient === "other") {
    return say("warn", "Genuine, but for another address", "This email was certified for somebody at " +
      "another address: it may be a copy that was passed on. If it came to an address that its To " +
      "line does not show, enter that one below.");
  }
  if (verdict.level === Level.EXACT) {
    return say("good", "This is exactly the certified email",
      "Sender, subject, text, links and attachments are as certified: nothing was changed.");
  }
  if (verdict.level === Level.TEXT) {
    return say("good", "The words and links are the certified ones",
      `Something else about the email was changed. ${NOT_COVERED}`);
  }
  return say("warn", "The certified text, with something added",
    "What was certified is in this email, but there is more. Do not rely on what was added; it is " +
    "shown below.");
}

function refused(verdict, parsed) {
  if (verdict.failedStep === 9) {
    return say("warn", "The email holds, its public record does not", sentence(verdict.reason));
  }
  if (verdict.level === Level.LINKS) {
    return say("bad", "The text was changed",
      "Links are as certified, but the words are not. Do not rely on this email.");
  }
  const { differs } = verdict;
  if (verdict.failedStep === 4 && differs.includes("links") && !differs.includes("text")) {
    return say("bad", "Links were changed",
      "The words are as certified, but links lead elsewhere. Do not click them.");
  }
  if (verdict.failedStep === 4 || (verdict.failedStep === 7 && parsed && !parsed.isFull)) {
    return say("bad", "This is not the certified email",
      "Its text is not what was certified. It was changed, or it is another email.");
  }
  return say("bad", "This certificate does not hold",
    `${sentence(verdict.reason)} Do not rely on this email.`);
}

function sentence(text) {
  return text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "";
}

/** What else is to be known: `tone`, `title`, `text`. */
export function notices(situation) {
  const { papers, verdict, linkDiffers, own } = situation;
  const view = papers.view;
  const out = [];
  const note = (tone, title, text) => out.push({ tone, title, text });
  const issuer = verdict?.signers[0];
  if (verdict?.holds && issuer && !isOfIssuer(verdict.domain, issuer)) {
    note("neutral", "The issuer is not the sender.", `${issuer} vouches for this email from ` +
      `${verdict.domain || "an unnamed sender"}. Rely on it as far as you know that issuer.`);
  }
  if (linkDiffers) {
    note("warn", "The link’s proof is another certificate’s.",
      "The one that this site has is checked here.");
  }
  if (verdict?.holds && verdict.recipient === "other" && own.recipient) {
    note("warn", "Not for the address that you entered.", "The email was certified for another one.");
  }
  if (verdict?.holds && verdict.sender === "other") {
    note("warn", "Another sender.", `Certified was ${verdict.domain}; the email names somebody else.`);
  }
  if (view?.forgotten && verdict) {
    note("neutral", "Personal data was erased.",
      "The site holds no more of it. Your email still proves itself.");
  }
  if (view?.state === "orphaned") {
    note("warn", "Being recorded again.", "Its network dropped the block that it stood in.");
  }
  return out;
}

/** Whether the issuer's key name begins with the sender's domain, or one of the same house. */
function isOfIssuer(domain, issuer) {
  const host = issuer.split("/", 1)[0];
  return domain === host || domain.endsWith(`.${host}`) || host.endsWith(`.${domain}`);
}

/** Short lines on what is proven so far: `result` (as of a step) and `text`. */
export function provenSoFar({ steps, verdict, anchors, hasMessage, papers, hasPolicy }) {
  if (!verdict) return [];
  const signed = steps[6];
  const out = [{
    result: signed.result,
    text: signed.result === "good" ? signed.said : "Signature: not proven",
  }];
  if (verdict.state !== "revoked") {
    const { result, said } = steps[7];
    if (result !== "wait") out.push({ result, text: said });
  }
  const proven = anchors.find((anchor) => anchor.isProven);
  if (proven) {
    const network = proven.word?.network ?? `chain ${proven.chainId}`;
    const place = `Recorded in block ${proven.header.number} of ${network}`;
    const isOwn = hasPolicy && verdict.seen.length > 0;
    const depth = isOwn ? ownDepth(verdict) : `${proven.word?.state ?? "unknown"}, by the site’s word`;
    out.push({ result: isOwn ? "good" : "part", text: `${place} (${depth})` });
  } else {
    const when = papers.view?.state === "open" ? "not yet" : "none at hand yet";
    out.push({ result: "wait", text: `Public record: ${when}` });
  }
  if (!hasMessage) out.push({ result: "wait", text: "Your email: not compared yet" });
  return out;
}

function ownDepth({ state }) {
  return state === "final" ? "final, by your own sources" : "not final yet, by your own sources";
}

/** One line on how far the public record is. */
export function recordWords({ anchors, verdict, papers, hasPolicy }) {
  const proven = anchors.filter((anchor) => anchor.isProven);
  const from = proven.map((anchor) => anchor.header.time).sort((a, b) => a - b)[0];
  if (hasPolicy && verdict.seen.length) {
    const end = verdict.state === "final" ? "for good" : "though not for good yet";
    return `Your own sources have the block, ${end}: the email existed by ${moment(from)}.`;
  }
  if (proven.length) {
    return `Its batch stands in the blocks below; the email existed by ${moment(from)}. The proofs were ` +
      "checked here; that the blocks are the networks’ own is this site’s word.";
  }
  const waits = {
    open: "Its batch is still being filled.",
    included: "Signed, and about to be sent to a public network.",
    submitted: "On its way into a block of a public network.",
    orphaned: "The block that had it was dropped; it is being recorded again.",
  };
  const isSigned = [null, 4, 8, 9].includes(verdict?.failedStep);
  const none = `No public record is at hand.${isSigned ? " The signature holds without one." : ""}`;
  return waits[papers.view?.state] ?? none;
}
