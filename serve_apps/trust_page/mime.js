// MIME: the parts that a reader sees, the certificate cut out (spec §1.2 and §3). All binaries.

import { bytesOf, fromBase64Letters } from "./bytes.js";
import { firstValue, splitEntity } from "./headers.js";

const MAX_DEPTH = 20;
const MAX_PARTS = 1000;
const CERTIFICATE_TYPES = [
  "application/vnd.maily.certificate+json",
  "application/vnd.maily.certificate+cbor",
];

const S = "[ \\t\\n\\r\\f\\v]*";
const WORD = "[A-Za-z0-9!#$&^_.+-]+";
const TYPE = new RegExp(`^${S}(${WORD}/${WORD})${S}(?:;|$)`);
const BOUNDARY = parameterPattern("boundary");
const CHARSET = parameterPattern("charset");

function parameterPattern(name) {
  const value = `(?:"((?:[^"\\\\]|\\\\[^\\n])*)"|([^ \\t\\n\\r\\f\\v;"]+))`;
  return new RegExp(`(?:^|;)${S}${name}${S}=${S}${value}`, "i");
}

/** `kind` as type/subtype in lower case; text/plain where none or a malformed one is given. */
function contentType(entity) {
  const value = firstValue(entity, "content-type");
  const kind = TYPE.exec(value)?.[1].toLowerCase() ?? "text/plain";
  const boundary = parameter(BOUNDARY, value).replace(/[ \t]+$/, "");
  return { kind, boundary, charset: parameter(CHARSET, value) };
}

function parameter(pattern, value) {
  const match = pattern.exec(value);
  if (!match) return "";
  return match[1] === undefined ? match[2] : match[1].replace(/\\([^\n])/g, "$1");
}

/** Parts of a multipart: delimiter's start, start and end of the part. */
function pieces(body, boundary) {
  const found = [];
  if (!boundary) return found;
  const mark = `--${boundary}`;
  const rest = /(--)?[ \t]*(?:\n|$)/y;
  let opened = null;
  let from = 0;
  for (;;) {
    const at = body.indexOf(mark, from);
    if (at < 0) break;
    from = at + 1;
    if (at > 0 && body[at - 1] !== "\n") continue;
    rest.lastIndex = at + mark.length;
    const match = rest.exec(body);
    if (!match) continue;
    if (opened) found.push({ ...opened, end: Math.max(opened.start, at - 1) });
    const isNewline = match[0].endsWith("\n");
    const lineEnd = at + mark.length + match[0].length - (isNewline ? 1 : 0);
    opened = match[1] ? null : { at, start: lineEnd + 1 };
    if (match[1] || found.length > MAX_PARTS) break;
    from = lineEnd;
  }
  if (opened && found.length <= MAX_PARTS) found.push({ ...opened, end: body.length });
  return found;
}

/** The certificate's part, if there is one: where it stands, and what it is. */
function certificatePart(message) {
  const { kind, boundary } = contentType(message);
  if (!kind.startsWith("multipart/")) return null;
  for (const piece of pieces(message.body, boundary)) {
    const entity = splitEntity(message.body.slice(piece.start, piece.end));
    if (CERTIFICATE_TYPES.includes(contentType(entity).kind)) return { ...piece, entity };
  }
  return null;
}

/** The message less its first certificate part: a digest can't hold itself. */
export function withoutCertificate(message) {
  const part = certificatePart(message);
  if (!part) return message;
  const { body } = message;
  const after = part.end < body.length ? part.end + 1 : part.end;
  return { fields: message.fields, body: body.slice(0, part.at) + body.slice(after) };
}

/** The certificate that the message carries, as bytes: its part, else its field, else null. */
export function carriedCertificate(message) {
  const part = certificatePart(message);
  if (part) {
    const encoding = firstValue(part.entity, "content-transfer-encoding").toLowerCase();
    return decodeBytes(part.entity.body, encoding);
  }
  const field = firstValue(message, "maily-certificate").replaceAll(" ", "");
  return field ? base64Bytes(field) : null;
}

/** In reading order: bytes, label of their charset, and whether they are HTML. */
export function shownParts(entity) {
  return walk(entity, 0, { left: MAX_PARTS });
}

function walk(entity, depth, budget) {
  budget.left--;
  if (budget.left < 0 || depth > MAX_DEPTH) return [];
  let { kind, boundary, charset } = contentType(entity);
  if (kind.startsWith("multipart/")) {
    const children = pieces(entity.body, boundary)
      .slice(0, MAX_PARTS)
      .map(({ start, end }) => splitEntity(entity.body.slice(start, end)));
    if (children.length) return ofChildren(kind, children, depth, budget);
    kind = "text/plain";
  }
  if (kind !== "text/plain" && kind !== "text/html") return [];
  const disposition = firstValue(entity, "content-disposition").toLowerCase();
  if (disposition.startsWith("attachment")) return [];
  const encoding = firstValue(entity, "content-transfer-encoding").toLowerCase();
  return [{ bytes: decodeBytes(entity.body, encoding), charset, isHtml: kind === "text/html" }];
}

function ofChildren(kind, children, depth, budget) {
  if (kind !== "multipart/alternative") {
    return children.flatMap((child) => walk(child, depth + 1, budget));
  }
  for (const child of children.reverse()) {
    const found = walk(child, depth + 1, budget);
    if (found.length) return found;
  }
  return [];
}

/** Broken encodings give bytes, never an error. */
function decodeBytes(body, encoding) {
  if (encoding === "base64") return base64Bytes(body);
  if (encoding === "quoted-printable") {
    const text = body.replace(/(?<![ \t])[ \t]+(?=\n|$)/g, "");
    return bytesOf(
      text.replace(/=(?:\n|([0-9A-Fa-f]{2}))/g, (_, code) =>
        code === undefined ? "" : String.fromCharCode(parseInt(code, 16)),
      ),
    );
  }
  return bytesOf(body);
}

function base64Bytes(text) {
  return fromBase64Letters(text.split("=", 1)[0].replace(/[^A-Za-z0-9+/]+/g, ""));
}
