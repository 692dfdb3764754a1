// The charsets of East Asia: all bytes fit, or the text is of another charset.

const NAMES = ["big5", "gb18030", "windows-31j", "windows-949", "euc-jp", "iso-2022-jp"];
const KATAKANA = 0xff61 - 0xa1;
const MAX_ESCAPE = 16;
const built = new Map();

export function isEastAsian(charset) {
  return NAMES.includes(charset);
}

/** `table`: what table_double.js holds. Null where the bytes are not of this charset. */
export function decodeEastAsian(bytes, charset, table) {
  if (charset === "iso-2022-jp") return iso2022jp(bytes, grid(table, "euc-jp"));
  const out = [];
  const pairs = grid(table, charset);
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at];
    let [code, width] = [pairs[(first << 8) | bytes[at + 1]], 2];
    if (first < 0x80) [code, width] = [first, 1];
    else if (charset === "gb18030" && bytes[at + 1] >= 0x30 && bytes[at + 1] <= 0x39) {
      [code, width] = [fourBytes(bytes, at, table), 4];
    } else if (charset === "windows-31j" && oneByte(first)) {
      [code, width] = [oneByte(first), 1];
    } else if (charset === "euc-jp" && first === 0x8e) {
      const second = bytes[at + 1];
      code = second >= 0xa1 && second <= 0xdf ? second + KATAKANA : 0;
    } else if (charset === "euc-jp" && first === 0x8f) {
      code = grid(table, "jis-x-0212")[(bytes[at + 1] << 8) | bytes[at + 2]];
      width = 3;
    }
    if ((!code && first) || at + width > bytes.length) return null;
    out.push(String.fromCodePoint(code));
    at += width;
  }
  return out.join("");
}

/** Code points by lead and trail byte; 0 where there is none. */
function grid(table, name) {
  if (built.has(name)) return built.get(name);
  const out = new Uint16Array(65536);
  const rows = table.DOUBLE[name];
  for (let at = 0; at < rows.length; at += 3) {
    const text = rows[at + 2];
    const from = (rows[at] << 8) | rows[at + 1];
    for (let i = 0; i < text.length; i++) out[from + i] = text.charCodeAt(i);
  }
  built.set(name, out);
  return out;
}

/** Of windows-31J: single bytes above ASCII, or 0. */
function oneByte(byte) {
  if (byte >= 0xa1 && byte <= 0xdf) return byte + KATAKANA;
  if (byte === 0x80) return byte;
  if (byte === 0xa0) return 0xf8f0;
  return byte >= 0xfd ? byte - 0xfd + 0xf8f1 : 0;
}

/** Of GB 18030: a code point, or 0. */
function fourBytes(bytes, at, table) {
  const [a, b, c, d] = bytes.subarray(at, at + 4);
  if (a === 0xff || !(c >= 0x81 && c <= 0xfe) || !(d >= 0x30 && d <= 0x39)) return 0;
  const number = (((a - 0x81) * 10 + b - 0x30) * 126 + c - 0x81) * 10 + d - 0x30;
  if (number >= 189000) return number < 189000 + 0x100000 ? number - 189000 + 0x10000 : 0;
  if (number >= 39420) return 0;
  const ranges = table.GB18030_RANGES;
  let found = 0;
  for (let i = 0; i < ranges.length && ranges[i] <= number; i += 2) {
    found = ranges[i + 1] < 0 ? 0 : ranges[i + 1] + number - ranges[i];
  }
  return found;
}

/** ISO-2022-JP: escapes choose between ASCII, JIS X 0201's Roman and JIS X 0208. */
function iso2022jp(bytes, pairs) {
  const out = [];
  let set = "B";
  let isThrough = false; // an escape that is none of ours passes as it is, up to its last letter
  for (let at = 0; at < bytes.length; ) {
    const byte = bytes[at];
    if (isThrough) {
      out.push(String.fromCharCode(byte));
      isThrough = !endsEscape(byte);
      at++;
    } else if (byte === 0x1b && at + 1 >= bytes.length) {
      return null;
    } else if (byte === 0x1b && "()$.&".includes(String.fromCharCode(bytes[at + 1]))) {
      const escape = readEscape(bytes, at);
      if (!escape) return null;
      set = escape.set ?? set;
      at += escape.length;
    } else if (byte === 0x1b) {
      out.push("\u001b");
      isThrough = true;
      at++;
    } else if (byte >= 0x80) {
      return null;
    } else if (byte < 0x20 || set === "B" || set === "J") {
      const roman = { 0x5c: "\u00a5", 0x7e: "\u203e" };
      out.push((set === "J" && roman[byte]) || String.fromCharCode(byte));
      at++;
    } else {
      const code = bytes[at + 1] < 0x80 ? pairs[((byte | 0x80) << 8) | bytes[at + 1] | 0x80] : 0;
      if (!code || bytes[at + 1] < 0x21) return null;
      out.push(String.fromCharCode(code));
      at += 2;
    }
  }
  return out.join("");
}

function endsEscape(byte) {
  return byte >= 0x40 && byte <= 0x5a;
}

/** Length of the escape, and the set that it puts in the first place, if it does. */
function readEscape(bytes, at) {
  let length = 0;
  for (let i = 1; i < MAX_ESCAPE && !length; i++) {
    if (at + i >= bytes.length) return null;
    if (endsEscape(bytes[at + i])) length = i + 1;
    else if (bytes[at + i] === 0x26 && bytes[at + i + 1] === 0x40) i += 2;
  }
  const escape = String.fromCharCode(...bytes.subarray(at + 1, at + length));
  const known = { "(B": "B", "(J": "J", "$@": "$", "$B": "$", "$(@": "$", "$(B": "$" };
  if (Object.hasOwn(known, escape)) return { length, set: known[escape] };
  if (/^..\u001b\$B$/s.test(escape)) return { length, set: "$" }; // of 1990: announced by two bytes
  return /^(?:\)[BJ]|\$\)[@B])$/.test(escape) ? { length, set: null } : null;
}
