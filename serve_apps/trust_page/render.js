// Puts a situation on the page. Data goes in as text, never as markup.

import { hex } from "./bytes.js";
import { Level } from "./levels.js";
import { moment } from "./steps.js";
import { headline, notices, provenSoFar, recordWords } from "./words.js";

const MAX_ADDED = 4000;
const SVG = "http://www.w3.org/2000/svg";
const RESULT_WORDS = { good: "holds", bad: "does not hold", part: "in part", wait: "not yet" };

export const byId = (id) => document.getElementById(id);

/** An element; its children are elements and texts, nulls left out. */
function make(tag, properties, ...children) {
  const { tone, ...rest } = properties ?? {};
  const element = Object.assign(document.createElement(tag), rest);
  if (tone) element.dataset.tone = tone;
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

export function render(situation) {
  answer(headline(situation));
  byId("proven").replaceChildren(
    ...provenSoFar(situation).map(({ result, text }) =>
      make("li", {}, mark(result), make("span", {}, text))),
  );
  byId("drop-title").textContent = situation.hasMessage
    ? "Check another email" : "Is it the email that you have?";
  byId("tools").hidden = !situation.verdict;
  if (situation.verdict && !situation.keys.length) byId("trust-card").open = true;
  byId("notices").replaceChildren(
    ...notices(situation).map(({ tone, title, text }) =>
      make("li", { tone }, make("b", {}, title), ` ${text}`)),
  );
  facts(situation);
  differences(situation);
  chain(situation);
  steps(situation);
  keys(situation);
  const { papers } = situation;
  const when = papers.view?.as_of ?? papers.looked;
  const saved = papers.savedAt ? ` Saved on ${moment(papers.savedAt)}.` : "";
  byId("as-of").textContent = `${when ? `As of ${moment(when)}.` : ""}${saved}`;
}

export function answer({ tone, title, lead }) {
  byId("status").dataset.tone = tone;
  byId("status-icon").setAttribute("href", `#i-${tone}`);
  byId("title").textContent = title;
  byId("lead").textContent = lead;
  byId("proven").replaceChildren();
}

/** The sign of a step's result. */
function mark(result) {
  const label = { role: "img", ariaLabel: RESULT_WORDS[result] };
  return make("span", { className: "result", tone: result, ...label }, icon(result));
}

function facts({ papers, verdict, parsed, hasMessage }) {
  const view = papers.view ?? {};
  const leaf = parsed?.isFull ? parsed.leaf : null;
  const isSame = hasMessage && verdict?.holds;
  const size = parsed?.proof.size ?? view.size;
  const index = parsed?.proof.index ?? view.index;
  const sure = (fact) => {
    if (!isSame || fact === "unknown") return null;
    const isOther = fact === "other";
    const text = isOther ? " ✕ another one in your email" : " ✓ as in your email";
    return make("span", { className: isOther ? "other" : "sure" }, text);
  };
  const rows = [
    ["Subject", view.subject, null, "subject"],
    ["Date", view.date, null],
    ["From", leaf?.domain ?? view.domain ?? verdict?.domain, sure(verdict?.sender)],
    ["To", view.recipient_masked, sure(verdict?.recipient)],
    ["Message id", leaf?.messageId ?? view.message_id, sure(verdict?.messageId)],
    ["Certified", view.certified_at && moment(view.certified_at), null],
    ["Place", size ? `${grouped(index + 1)} of ${grouped(size)} in its batch` : null, null],
    ["Document", view.document && `${view.document.id}, version ${view.document.version}`, null],
  ].filter(([, value]) => value);
  byId("facts-card").hidden = !rows.length;
  byId("facts").replaceChildren(
    ...rows.map(([name, value, said, className]) =>
      make("div", {}, make("dt", {}, name), make("dd", { className: className ?? "" }, value, said))),
  );
  byId("facts-note").textContent = view.subject
    ? "Subject, date and recipient are told by this site, to find the email by. The certificate has " +
      "digests of them; your email is what they are compared with."
    : "";
}

function grouped(number) {
  return new Intl.NumberFormat("en").format(number);
}

function differences({ verdict, hasMessage, added }) {
  const blocks = [];
  if (hasMessage && verdict) {
    if (added.before) blocks.push(quoted("Added before the certified text", added.before));
    if (added.after) blocks.push(quoted("Added after the certified text", added.after));
    if (verdict.addedOrigins.length) {
      blocks.push(origins("Links that were not certified lead to", verdict.addedOrigins, "is-added"));
    }
    if (verdict.missingOrigins.length) {
      blocks.push(origins("Certified links that are missing led to", verdict.missingOrigins, ""));
    }
    const told = verdict.differs.filter((what) => verdict.level !== Level.EXACT || what !== "recipient");
    if (told.length) blocks.push(listed(told));
  }
  byId("differences").hidden = !blocks.length;
  byId("differences-body").replaceChildren(...blocks);
}

function quoted(title, text) {
  const shown = text.length > MAX_ADDED ? `${text.slice(0, MAX_ADDED)} …` : text;
  return make("div", {}, make("h3", {}, title), make("p", { className: "added", tabIndex: 0 }, shown));
}

function origins(title, list, kind) {
  const items = list.map((origin) => make("li", {}, make("code", {}, origin)));
  return make("div", {}, make("h3", {}, title), make("ul", { className: `origins ${kind}` }, ...items));
}

const WORDS = {
  "headers or body": "Headers or the body’s form (often changed on the way)",
  "headers or body, or the recipient": "Headers, the body’s form, or the recipient",
  text: "The text",
  links: "Where links lead",
  sender: "The sender’s domain",
  "message id": "The message id",
  recipient: "The recipient",
  "text, links, sender or certificate": "Text, links or sender, or the certificate is not genuine",
};

function listed(differs) {
  const items = differs.map((what) => make("li", {}, WORDS[what] ?? what));
  const title = make("h3", {}, "Not as certified");
  return make("div", {}, title, make("ul", { className: "origins" }, ...items));
}

function chain(situation) {
  const { anchors, verdict } = situation;
  byId("chain").hidden = !verdict && !anchors.length;
  if (byId("chain").hidden) return;
  byId("chain-lead").textContent = recordWords(situation);
  byId("anchors").replaceChildren(...anchors.map(anchorItem));
}

function anchorItem({ chainId, method, contract, isProven, header, depth, word }) {
  const name = word?.network ? `${word.network} (chain ${chainId})` : `Chain ${chainId}`;
  const [tone, chip] = depth && depth !== "unknown"
    ? ["good", depth === "final" ? "final, by your sources" : "in a block, by your sources"]
    : depth === "unknown" ? ["warn", "your sources do not know the block"]
      : word ? [word.state === "final" ? "neutral" : "wait", `site says: ${word.state}`]
        : ["wait", "no word on the block"];
  const said = make("span", { className: "chip", tone }, chip);
  const title = make("div", { className: "row" }, make("h3", {}, name), said);
  const place = header
    ? `Block ${grouped(header.number)}, made on ${moment(header.time)}`
    : word?.block_number ? `Block ${grouped(word.block_number)}` : "Not in a block yet";
  const kind = method === "event" ? "an event of the registry" : "a transaction with the root";
  const proof = isProven ? `Proof checked here: ${kind}` : "No proof at hand yet";
  const hashes = [
    hashLine("Block", header ? `0x${hex(header.hash)}` : word?.block_hash),
    hashLine("Transaction", word?.tx),
    hashLine("Registry", contract && `0x${contract}`),
  ].filter(Boolean);
  const folded = hashes.length
    ? make("details", {}, make("summary", {}, "Hashes"), ...hashes) : null;
  return make("li", {}, title, make("p", {}, place), make("p", {}, proof),
    word?.reason ? make("p", {}, word.reason) : null, folded);
}

function hashLine(name, value) {
  return value ? make("p", { className: "hash" }, `${name} ${value}`) : null;
}

function steps({ steps: list }) {
  byId("steps-card").hidden = !list.length;
  byId("steps").replaceChildren(
    ...list.map(({ number, title, about, result, said }) => {
      const text = make("div", {}, make("b", {}, `${number}. ${title}`), make("p", {}, about),
        make("p", { className: "said", tone: result }, said));
      return make("li", {}, mark(result), text);
    }),
  );
}

function keys({ keys: list, own, papers }) {
  const origin = papers.keysFrom ?? location.host;
  const lead = byId("trust-lead");
  lead.textContent = own.keys.length ? "Keys that you entered:"
    : list.length ? `Signatures are checked with these keys, which ${origin} publishes:`
      : "No keys could be had.";
  byId("trust-site").hidden = Boolean(own.keys.length) || !list.length;
  byId("keys").replaceChildren(
    ...list.map((key) => make("li", {}, make("code", {}, key.line))),
  );
}
