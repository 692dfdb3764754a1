// Bytes and the texts that stand for them. A "binary" is a string with one character a byte: patterns
// run over it as they do over text, whatever bytes a message holds.

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const VALUES = new Uint8Array(128).fill(255);
for (let at = 0; at < 64; at++) VALUES[ALPHABET.charCodeAt(at)] = at;

const ENCODER = new TextEncoder();
const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const LENIENT = new TextDecoder("utf-8", { ignoreBOM: true });
const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** One character a byte. */
export function binaryOf(bytes) {
  let out = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    out += String.fromCharCode.apply(null, bytes.subarray(at, at + 8192));
  }
  return out;
}

/** The bytes of a binary, or of ASCII text. */
export function bytesOf(binary) {
  const out = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) out[at] = binary.charCodeAt(at);
  return out;
}

/** UTF-8; halves of characters become "?". */
export function utf8(text) {
  return ENCODER.encode(text.replace(LONE, "?"));
}

/** Whether UTF-8 can hold the text: no half of a character stands alone. */
export function isWellFormed(text) {
  return text.search(LONE) < 0;
}

/** The text, or null if the bytes are not UTF-8. */
export function strictUtf8(bytes) {
  try {
    return STRICT.decode(bytes);
  } catch {
    return null;
  }
}

/** The text; what is not UTF-8 becomes U+FFFD. */
export function lenientUtf8(bytes) {
  return LENIENT.decode(bytes);
}

/** Joined; a string among the parts is ASCII. */
export function concat(...parts) {
  let length = 0;
  for (const part of parts) length += part.length;
  const out = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    if (typeof part === "string") {
      for (let i = 0; i < part.length; i++) out[at + i] = part.charCodeAt(i);
    } else {
      out.set(part, at);
    }
    at += part.length;
  }
  return out;
}

export function equal(a, b) {
  if (a.length !== b.length) return false;
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return false;
  return true;
}

/** Below zero, zero or above as a sorts before, with or after b, by their bytes. */
export function compare(a, b) {
  const shared = Math.min(a.length, b.length);
  for (let at = 0; at < shared; at++) if (a[at] !== b[at]) return a[at] - b[at];
  return a.length - b.length;
}

export function hex(bytes) {
  let out = "";
  for (const byte of bytes) out += HEX[byte];
  return out;
}

/** Of hex whose form was checked before. */
export function unhex(text) {
  const out = new Uint8Array(text.length / 2);
  for (let at = 0; at < out.length; at++) out[at] = parseInt(text.substr(2 * at, 2), 16);
  return out;
}

export function base64(bytes) {
  let out = "";
  for (let at = 0; at < bytes.length; at += 3) {
    const group = (bytes[at] << 16) | ((bytes[at + 1] ?? 0) << 8) | (bytes[at + 2] ?? 0);
    out += ALPHABET[group >> 18] + ALPHABET[(group >> 12) & 63];
    out += at + 1 < bytes.length ? ALPHABET[(group >> 6) & 63] : "=";
    out += at + 2 < bytes.length ? ALPHABET[group & 63] : "=";
  }
  return out;
}

/** Of letters of the alphabet alone; one that is left over at the end counts for nothing. */
export function fromBase64Letters(letters) {
  const count = letters.length % 4 === 1 ? letters.length - 1 : letters.length;
  const out = new Uint8Array(Math.floor((count * 3) / 4));
  let bits = 0;
  let held = 0;
  let to = 0;
  for (let at = 0; at < count; at++) {
    held = ((held << 6) | VALUES[letters.charCodeAt(at)]) & 0xffffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out[to++] = (held >> bits) & 255;
    }
  }
  return out;
}

/** The bytes of base64 in its one canonical form, or null. */
export function strictBase64(text) {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4) return null;
  const bytes = fromBase64Letters(text.replace(/=+$/, ""));
  return base64(bytes) === text ? bytes : null;
}
