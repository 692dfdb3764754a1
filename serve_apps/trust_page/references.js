// Character references, decoded as HTML says for text.

import { INSTEAD, NAMED, NOTHING } from "./table_references.js";

const REFERENCE = /&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/g;
const LAST = 0x10ffff;

/** The text with its references replaced; what is none stays as it stands. */
export function unescape(text) {
  return text.includes("&") ? text.replace(REFERENCE, replace) : text;
}

function replace(_, name) {
  if (name[0] === "#") {
    const isHex = name[1] === "x" || name[1] === "X";
    return numbered(isHex ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10));
  }
  for (let length = name.length; length > 1; length--) {
    const found = name.slice(0, length);
    if (Object.hasOwn(NAMED, found)) return NAMED[found] + name.slice(length);
  }
  return `&${name}`;
}

function numbered(code) {
  if (Object.hasOwn(INSTEAD, code)) return INSTEAD[code];
  if ((code >= 0xd800 && code <= 0xdfff) || code > LAST) return "\ufffd";
  for (let at = 0; at < NOTHING.length; at += 2) {
    if (code >= NOTHING[at] && code <= NOTHING[at + 1]) return "";
  }
  return String.fromCodePoint(code);
}
