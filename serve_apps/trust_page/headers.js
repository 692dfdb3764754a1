// Header and body of a message, and DKIM's relaxed forms (spec §1 and §2). All texts are binaries.

import { bytesOf, lenientUtf8 } from "./bytes.js";
import { sha256 } from "./sha256.js";

const SIGNED = (
  "from sender reply-to to cc subject date message-id in-reply-to references mime-version " +
  "content-type content-transfer-encoding list-id list-unsubscribe list-unsubscribe-post"
).split(" ");
const MAX_RECIPIENTS = 50;
const MAX_SELECTORS = 5;

/** Fields, each with its name in lower case and its relaxed value, and the body. */
export function splitMessage(raw) {
  let data = raw.replaceAll("\r\n", "\n");
  if (data.startsWith("From ")) {
    const end = data.indexOf("\n");
    data = end < 0 ? "" : data.slice(end + 1);
  }
  return splitEntity(data);
}

/** Of a part too. Line ends are LF. */
export function splitEntity(data) {
  if (data.startsWith("\n")) return { fields: [], body: data.slice(1) };
  const cut = data.indexOf("\n\n");
  const head = cut < 0 ? data : data.slice(0, cut);
  const fields = [];
  let name = null;
  let value = "";
  for (const line of [...head.split("\n"), ":"]) {
    if (line.startsWith(" ") || line.startsWith("\t")) {
      value += line;
      continue;
    }
    if (name !== null) fields.push({ name, value: relaxed(value) });
    const colon = line.indexOf(":");
    name = colon < 0 ? null : line.slice(0, colon).replace(/[ \t]+$/, "").toLowerCase();
    value = line.slice(colon + 1);
  }
  return { fields, body: cut < 0 ? "" : data.slice(cut + 2) };
}

function relaxed(value) {
  return value.replace(/[ \t]+/g, " ").replace(/^ | $/g, "");
}

function valuesOf(message, name) {
  return message.fields.filter((field) => field.name === name).map((field) => field.value);
}

/** Of the first field of this name; empty without one. */
export function firstValue(message, name) {
  return message.fields.find((field) => field.name === name)?.value ?? "";
}

/** RFC 6376 §3.4.4. */
export function relaxedBody(body) {
  const text = body.replace(/[ \t]+/g, " ").replaceAll(" \n", "\n").replace(/ $/, "");
  let end = text.length;
  while (end > 0 && text[end - 1] === "\n") end--;
  return end ? text.slice(0, end).replaceAll("\n", "\r\n") + "\r\n" : "";
}

/** L3 (spec §2). */
export function exactDigest(message) {
  const head = SIGNED.flatMap((name) =>
    valuesOf(message, name).map((value) => `${name}:${value}\r\n`),
  ).join("");
  const body = sha256(bytesOf(relaxedBody(message.body)));
  return sha256("maily-exact-v1\n", body, sha256(bytesOf(head)));
}

/** The address in a From or To value (spec §1.3), as text. */
function addressOf(value) {
  let text = lenientUtf8(bytesOf(value));
  const angle = text.lastIndexOf("<");
  if (angle >= 0) text = text.slice(angle + 1).split(">", 1)[0];
  return normalAddress(text.replace(/[ \t]/g, ""));
}

/** ASCII letters in lower case, no spaces around: what a recipient's commitment is made of. */
export function normalAddress(address) {
  const text = address.replace(/^[ \t\r\n]+/, "").replace(/[ \t\r\n]+$/, "");
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

/** The sender's domain, or empty where the message does not name one clearly. */
export function domainOf(message) {
  const values = valuesOf(message, "from");
  if (values.length !== 1) return "";
  const domain = addressOf(values[0]).split("@").at(-1);
  return /^[a-z0-9.-]{1,255}$/.test(domain) ? domain : "";
}

export function messageIdOf(message) {
  const values = valuesOf(message, "message-id");
  if (values.length !== 1 || values[0].length > 998) return "";
  return lenientUtf8(bytesOf(values[0]));
}

/** The `s=` tags of the first DKIM-Signature fields. */
export function selectorsOf(message) {
  return valuesOf(message, "dkim-signature")
    .slice(0, MAX_SELECTORS)
    .map((value) => /(?:^|;)[ \t\n\r\f\v]*s[ \t\n\r\f\v]*=[ \t\n\r\f\v]*([A-Za-z0-9._-]+)/.exec(value)?.[1])
    .filter((selector) => selector !== undefined);
}

/** The addresses in To: whom the message says that it is for. */
export function recipientsOf(message) {
  return valuesOf(message, "to")
    .flatMap((value) => value.split(","))
    .map(addressOf)
    .filter((address) => address.includes("@"))
    .slice(0, MAX_RECIPIENTS);
}
