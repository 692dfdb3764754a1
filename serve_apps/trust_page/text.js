// What a reader sees, folded, and the links with their places in it (spec §3 and §4).

import { concat, utf8 } from "./bytes.js";
import { originOf, trim, unwrap } from "./links.js";
import { sha256Large } from "./sha256.js";
import { tokens } from "./tokens.js";
import { nfkc } from "./unicode.js";

const URL_START =
  /https?:\/\/[^<>"\u0000-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/gi;
const URL_END = ".,;:!?)]}'*";
// White space, controls and characters that are there to be invisible. Marks that turn the direction
// of reading stay: they change what is seen.
const INVISIBLE = new RegExp(
  "[\\u0000-\\u0020\\u007f-\\u00a0\\u00ad\\u034f\\u115f\\u1160\\u1680\\u17b4\\u17b5\\u180b-\\u180f" +
    "\\u2000-\\u200d\\u2028\\u2029\\u202f\\u205f-\\u2065\\u206a-\\u206f\\u2800\\u3000\\u3164" +
    "\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff9-\\ufffb\\u{e0000}-\\u{e0fff}]+",
  "gu",
);

/** The folded text as UTF-8, every link with the number of bytes before it, and the `pieces` that the
 * text is made of, as they were written. `parts`: text and whether it is HTML. */
export function readText(parts) {
  const folded = [];
  const pieces = [];
  const links = [];
  let length = 0;
  const add = (text) => {
    const bytes = fold(text);
    folded.push(bytes);
    pieces.push({ text, size: bytes.length });
    length += bytes.length;
  };
  const link = (url) => {
    const origin = originOf(url);
    if (origin !== null) links.push({ at: length, origin });
  };
  for (const part of parts) {
    for (const token of part.isHtml ? tokens(part.text) : [{ link: false, value: part.text }]) {
      if (token.link) link(unwrap(trim(token.value)));
      else readChunk(token.value, add, link);
    }
  }
  return { bytes: concat(...folded), links, pieces };
}

function fold(text) {
  return utf8(nfkc(text).replace(INVISIBLE, ""));
}

/** The words from byte `from` to `to` of the folded text as they were written, to be read by people. */
export function asWritten(pieces, from, to) {
  let at = 0;
  let out = "";
  for (const { text, size } of pieces) {
    const end = at + size;
    if (at >= from && end <= to) out += text;
    else if (end > from && at < to) {
      let place = at;
      for (const character of text) {
        if (place >= from && place < to) out += character;
        place += fold(character).length;
      }
    }
    if (!/\s$/.test(out)) out += " ";
    at = end;
  }
  return out.trim().replace(/[ \t]+/g, " ").replace(/\s*\n\s*/g, "\n");
}

function readChunk(text, add, link) {
  let at = 0;
  for (const match of text.matchAll(URL_START)) {
    let end = match.index + match[0].length;
    while (URL_END.includes(text[end - 1])) end--;
    const url = unwrap(text.slice(match.index, end));
    add(text.slice(at, match.index));
    link(url);
    add(url);
    at = end;
  }
  add(text.slice(at));
}

/** L2 of folded text. */
export function textDigest(bytes) {
  return sha256Large("maily-text-v1\n", bytes);
}
