// Deterministic CBOR (RFC 8949 §4.2.1) of what compact certificates hold: one list of whole numbers,
// byte strings and null. Each has one encoding; any other is refused.

import { InvalidInput } from "./errors.js";

const WIDTHS = { 24: 1, 25: 2, 26: 4, 27: 8 };

/** The list that `data` is. Numbers are BigInt. Raises InvalidInput. */
export function readList(data) {
  const reader = new Reader(data);
  const { major, count } = reader.head();
  if (major !== 4 || count > 64n) throw wrong("it is no list");
  const out = [];
  while (out.length < count) out.push(reader.item());
  if (reader.at !== data.length) throw wrong("bytes follow it");
  return out;
}

class Reader {
  constructor(data) {
    this.data = data;
    this.at = 0;
  }

  take(count) {
    if (this.at + count > this.data.length) throw wrong("it is cut off");
    this.at += count;
    return this.data.slice(this.at - count, this.at);
  }

  head() {
    const [head] = this.take(1);
    const info = head & 31;
    if (info < 24) return { major: head >> 5, count: BigInt(info) };
    const width = WIDTHS[info];
    if (!width) throw wrong("a head is not of these");
    const count = this.take(width).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    const least = width === 1 ? 24n : 1n << BigInt(4 * width);
    if (count < least) throw wrong("a number is not in its shortest form");
    return { major: head >> 5, count };
  }

  item() {
    if (this.data[this.at] === 0xf6) {
      this.at++;
      return null;
    }
    const { major, count } = this.head();
    if (major === 0) return count;
    if (major !== 2) throw wrong("a member is not of these kinds");
    if (count > BigInt(this.data.length)) throw wrong("it is cut off");
    return this.take(Number(count));
  }
}

function wrong(why) {
  return new InvalidInput(`not a certificate in compact form: ${why}`, "certificate");
}
