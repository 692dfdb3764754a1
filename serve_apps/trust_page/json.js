// Canonical JSON (RFC 8785), and the strict reading of it that certificates need.
//
// JSON.parse hides doubled members and rounds large numbers; what is checked here is each byte.

import { equal, isWellFormed, strictUtf8, utf8 } from "./bytes.js";
import { InvalidInput } from "./errors.js";

const MAX_BYTES = 1 << 20;
const MAX_DEPTH = 900;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SPACE = /[ \t\n\r]*/y;
const WORDS = [["true", true], ["false", false], ["null", null]];
const LENIENT_WORDS = [["NaN", NaN], ["Infinity", Infinity], ["-Infinity", -Infinity]];

/** UTF-8 of a value's one canonical form. */
export function canonical(value) {
  return utf8(write(value));
}

function write(value) {
  if (typeof value === "string") {
    if (!isWellFormed(value)) throw new InvalidInput("not representable: half a character");
    return JSON.stringify(value);
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new InvalidInput("not representable: no number");
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const names = Object.keys(value).sort();
    return `{${names.map((name) => `${write(name)}:${write(value[name])}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

/** A document in canonical form, byte for byte; anything else raises InvalidInput. */
export function readCanonical(data) {
  if (data.length > MAX_BYTES) throw new InvalidInput(`more than ${MAX_BYTES} bytes`);
  const text = strictUtf8(data);
  if (text === null) throw new InvalidInput("not JSON: not UTF-8");
  const value = parse(text, true);
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new InvalidInput("not canonical JSON (RFC 8785)");
  }
  if (!equal(canonical(value), data)) throw new InvalidInput("not canonical JSON (RFC 8785)");
  return value;
}

/** Any JSON. `wholeOnly`: numbers are whole and at most 2^53 - 1. Raises InvalidInput. */
export function parse(text, wholeOnly = false) {
  const reader = new Reader(text, wholeOnly);
  const value = reader.value(0);
  reader.space();
  if (reader.at !== text.length) throw reader.wrong("something follows the value");
  return value;
}

class Reader {
  constructor(text, wholeOnly) {
    this.text = text;
    this.at = 0;
    this.wholeOnly = wholeOnly;
  }

  wrong(why) {
    return new InvalidInput(`not JSON: ${why} (character ${this.at})`);
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match) this.at = pattern.lastIndex;
    return match;
  }

  space() {
    this.take(SPACE);
  }

  eat(mark) {
    if (!this.text.startsWith(mark, this.at)) return false;
    this.at += mark.length;
    return true;
  }

  value(depth) {
    if (depth > MAX_DEPTH) throw this.wrong("nested too deep");
    this.space();
    const first = this.text[this.at];
    if (first === '"') return this.string();
    if (first === "{") return this.object(depth);
    if (first === "[") return this.array(depth);
    for (const [word, value] of WORDS) if (this.eat(word)) return value;
    for (const [word, value] of LENIENT_WORDS) {
      if (!this.wholeOnly && this.eat(word)) return value;
    }
    return this.number();
  }

  string() {
    const match = this.take(STRING);
    if (!match) throw this.wrong("a text is broken");
    return JSON.parse(match[0]);
  }

  number() {
    const match = this.take(NUMBER);
    if (!match) throw this.wrong("a value is missing");
    const value = Number(match[0]);
    const isWhole = match[1] === undefined && match[2] === undefined;
    if (this.wholeOnly && (!isWhole || !Number.isSafeInteger(value))) {
      throw this.wrong("a number is not whole, or too large");
    }
    return value;
  }

  object(depth) {
    const out = Object.create(null);
    this.at++;
    this.space();
    if (this.eat("}")) return out;
    do {
      this.space();
      const name = this.string();
      this.space();
      if (!this.eat(":")) throw this.wrong("a colon is missing");
      out[name] = this.value(depth + 1);
      this.space();
    } while (this.eat(","));
    if (!this.eat("}")) throw this.wrong("an object does not end");
    return out;
  }

  array(depth) {
    const out = [];
    this.at++;
    this.space();
    if (this.eat("]")) return out;
    do {
      out.push(this.value(depth + 1));
      this.space();
    } while (this.eat(","));
    if (!this.eat("]")) throw this.wrong("a list does not end");
    return out;
  }
}
