// SHA-256 (FIPS 180-4), at once: a proof is many small hashes, and each call to WebCrypto is a wait.
// It also works where WebCrypto does not: on pages that came over plain http.

import { concat } from "./bytes.js";

const [FIRST, ROUND] = constants();
const W = new Int32Array(64);
const SUBTLE_FROM = 16384;

/** Fractions of the square and cube roots of the first primes, exact by whole numbers. */
function constants() {
  const first = new Int32Array(8);
  const round = new Int32Array(64);
  for (let candidate = 2, found = 0; found < 64; candidate++) {
    let isPrime = true;
    for (let by = 2; by * by <= candidate; by++) if (candidate % by === 0) isPrime = false;
    if (!isPrime) continue;
    const prime = BigInt(candidate);
    if (found < 8) first[found] = Number(BigInt.asIntN(32, root(prime << 64n, 2n)));
    round[found++] = Number(BigInt.asIntN(32, root(prime << 96n, 3n)));
  }
  return [first, round];
}

function root(value, power) {
  let low = 0n;
  let high = 1n << 40n;
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle ** power <= value) low = middle;
    else high = middle;
  }
  return low;
}

/** Of the parts, joined; a string among them is ASCII. 32 bytes. */
export function sha256(...parts) {
  const data = parts.length === 1 && typeof parts[0] !== "string" ? parts[0] : concat(...parts);
  const state = FIRST.slice();
  const whole = data.length & ~63;
  block(state, data, 0, whole);
  const tail = new Uint8Array(data.length - whole < 56 ? 64 : 128);
  tail.set(data.subarray(whole));
  tail[data.length - whole] = 0x80;
  const view = new DataView(tail.buffer);
  view.setUint32(tail.length - 8, Math.floor(data.length / 0x20000000));
  view.setUint32(tail.length - 4, (data.length << 3) >>> 0);
  block(state, tail, 0, tail.length);
  const out = new Uint8Array(32);
  for (let at = 0; at < 8; at++) {
    out[4 * at] = state[at] >>> 24;
    out[4 * at + 1] = state[at] >>> 16;
    out[4 * at + 2] = state[at] >>> 8;
    out[4 * at + 3] = state[at];
  }
  return out;
}

function block(state, data, from, to) {
  let [h0, h1, h2, h3, h4, h5, h6, h7] = state;
  for (let at = from; at < to; at += 64) {
    for (let i = 0, p = at; i < 16; i++, p += 4) {
      W[i] = (data[p] << 24) | (data[p + 1] << 16) | (data[p + 2] << 8) | data[p + 3];
    }
    for (let i = 16; i < 64; i++) {
      const x = W[i - 15];
      const y = W[i - 2];
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      W[i] = (W[i - 16] + s0 + W[i - 7] + s1) | 0;
    }
    let a = h0, b = h1, c = h2, d = h3, e = h4, f = h5, g = h6, h = h7;
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + ROUND[i] + W[i]) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    h0 = (h0 + a) | 0;
    h1 = (h1 + b) | 0;
    h2 = (h2 + c) | 0;
    h3 = (h3 + d) | 0;
    h4 = (h4 + e) | 0;
    h5 = (h5 + f) | 0;
    h6 = (h6 + g) | 0;
    h7 = (h7 + h) | 0;
  }
  state.set([h0, h1, h2, h3, h4, h5, h6, h7]);
}

/** The same, by the browser's own code where there is much to hash and it may be used. */
export async function sha256Large(...parts) {
  const subtle = globalThis.crypto?.subtle;
  const data = concat(...parts);
  if (!subtle || data.length < SUBTLE_FROM) return sha256(data);
  return new Uint8Array(await subtle.digest("SHA-256", data));
}
