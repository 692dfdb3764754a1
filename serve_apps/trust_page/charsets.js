// Bytes to characters by a closed table of labels (spec §3 and §8).
//
// Not TextDecoder, but for UTF-8: browsers give windows-1252's holes a meaning, and read more into
// the charsets of East Asia than others do.

import { lenientUtf8, strictUtf8 } from "./bytes.js";
import { decodeEastAsian, isEastAsian } from "./east_asian.js";
import { SINGLE } from "./table_single.js";

const LABELS = {
  "utf8": "utf-8",
  "us-ascii": "windows-1252",
  "ascii": "windows-1252",
  "iso-8859-1": "windows-1252",
  "latin1": "windows-1252",
  "cp1252": "windows-1252",
  "iso-8859-9": "windows-1254",
  "gb2312": "gb18030",
  "gbk": "gb18030",
  "shift_jis": "windows-31j",
  "euc-kr": "windows-949",
  "ks_c_5601-1987": "windows-949",
};
const OWN = ["utf-8", "utf-16le", "utf-16be", "gb18030", "big5", "euc-jp", "iso-2022-jp"];

/** The charset's name, or null if the table has no such label. */
function charsetOf(label) {
  const name = label.replace(/^[ \t]+/, "").replace(/[ \t]+$/, "").toLowerCase();
  if (Object.hasOwn(LABELS, name)) return LABELS[name];
  const isWritten = OWN.includes(name) || /^(?:koi8-[ru]|macintosh|windows-125[0-8])$/.test(name);
  return isWritten || /^iso-8859-(?:[2-8]|10|1[3-6])$/.test(name) ? name : null;
}

/** Whether `decodeText` needs the large table for one of the labels. */
export function needsEastAsian(labels) {
  return labels.some((label) => isEastAsian(charsetOf(label)));
}

/** The label's charset if it fits, else UTF-8, else windows-1252, which takes anything.
 * `table`: of table_double.js, if one of the message's parts needs it. */
export function decodeText(bytes, label, table = null) {
  const charset = charsetOf(label);
  const text = charset === null ? null : decode(bytes, charset, table);
  return text ?? strictUtf8(bytes) ?? single(bytes, "windows-1252", true);
}

function decode(bytes, charset, table) {
  if (charset === "utf-8") return strictUtf8(bytes);
  if (charset === "utf-16le" || charset === "utf-16be") return utf16(bytes, charset);
  if (isEastAsian(charset)) return decodeEastAsian(bytes, charset, table);
  return single(bytes, charset, false);
}

/** Null where a byte has no character, unless `anything` goes. */
function single(bytes, charset, anything) {
  const upper = SINGLE[charset];
  const out = [];
  let isAscii = true;
  for (let at = 0; at < bytes.length && isAscii; at++) isAscii = bytes[at] < 128;
  if (isAscii) return lenientUtf8(bytes);
  for (const byte of bytes) {
    const character = byte < 128 ? String.fromCharCode(byte) : upper[byte - 128];
    if (character === "\ufffd" && !anything) return null;
    out.push(character);
  }
  return out.join("");
}

function utf16(bytes, charset) {
  if (bytes.length % 2) return null;
  const low = charset === "utf-16le" ? 0 : 1;
  const out = [];
  let isHalf = false;
  for (let at = 0; at < bytes.length; at += 2) {
    const unit = bytes[at + low] | (bytes[at + 1 - low] << 8);
    if (unit >= 0xdc00 && unit < 0xe000 ? !isHalf : isHalf) return null;
    isHalf = unit >= 0xd800 && unit < 0xdc00;
    out.push(String.fromCharCode(unit));
  }
  return isHalf ? null : out.join("");
}
