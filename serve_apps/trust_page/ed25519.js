// Ed25519 (RFC 8032): by WebCrypto where the browser has it, else by whole numbers here. Both refuse
// a second encoding of a signature (s not below the order).

import { bytesOf, concat } from "./bytes.js";

const P = 2n ** 255n - 19n;
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const D = mod(-121665n * inverse(121666n));
const ROOT_OF_MINUS_ONE = power(2n, (P - 1n) / 4n);
const BASE = basePoint();

const imported = new Map();
let works = null;

/** Whether WebCrypto has Ed25519 here; asked once. */
async function hasNative() {
  works ??= (async () => {
    try {
      await importKey(new Uint8Array(32).fill(0x66).fill(0x58, 0, 1)); // the base point
      return true;
    } catch {
      return false;
    }
  })();
  return works;
}

function importKey(key) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) throw new Error("no WebCrypto");
  return subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
}

/** Whether `signature` (64 bytes) of `message` is the key's. Never raises. */
export async function verifies(key, signature, message) {
  if (signature.length !== 64 || key.length !== 32) return false;
  if (!(await hasNative())) return verifiesHere(key, signature, message);
  const name = String.fromCharCode(...key);
  try {
    if (!imported.has(name)) imported.set(name, importKey(key));
    const handle = await imported.get(name);
    return await globalThis.crypto.subtle.verify("Ed25519", handle, signature, message);
  } catch {
    return false;
  }
}

/** The same without WebCrypto: some milliseconds instead of a fraction of one. */
export function verifiesHere(key, signature, message) {
  if (signature.length !== 64 || key.length !== 32) return false;
  const point = decoded(key);
  const s = little(signature.subarray(32));
  if (!point || s >= L) return false;
  const k = little(sha512(concat(signature.subarray(0, 32), key, message))) % L;
  // s·B = R + k·A, so R = s·B + k·(-A): its encoding must be the signature's first half.
  const minus = [mod(-point[0]), point[1], 1n, mod(-point[0] * point[1])];
  const r = sum(multiple(BASE, s), multiple(minus, k));
  const z = inverse(r[2]);
  const x = mod(r[0] * z);
  const wanted = mod(r[1] * z) | ((x & 1n) << 255n);
  return wanted === little(signature.subarray(0, 32));
}

function mod(value, by = P) {
  const rest = value % by;
  return rest < 0n ? rest + by : rest;
}

function power(base, exponent) {
  let out = 1n;
  for (base = mod(base); exponent > 0n; exponent >>= 1n) {
    if (exponent & 1n) out = mod(out * base);
    base = mod(base * base);
  }
  return out;
}

function inverse(value) {
  return power(value, P - 2n);
}

function little(bytes) {
  let out = 0n;
  for (let at = bytes.length - 1; at >= 0; at--) out = (out << 8n) | BigInt(bytes[at]);
  return out;
}

/** x of a point from its y and x's last bit, or null where there is none. */
function recoverX(y, bit) {
  const y2 = mod(y * y);
  const u = mod(y2 - 1n);
  const v = mod(D * y2 + 1n);
  let x = mod(u * power(v, 3n) * power(u * power(v, 7n), (P - 5n) / 8n));
  if (mod(v * x * x) !== u) x = mod(x * ROOT_OF_MINUS_ONE);
  if (mod(v * x * x) !== u) return null;
  return (x & 1n) === bit ? x : mod(-x);
}

function decoded(key) {
  const value = little(key);
  const y = mod(value & ((1n << 255n) - 1n));
  const x = recoverX(y, value >> 255n);
  return x === null ? null : [x, y];
}

function basePoint() {
  const y = mod(4n * inverse(5n));
  const x = recoverX(y, 0n);
  return [x, y, 1n, mod(x * y)];
}

/** In extended coordinates (RFC 8032 §5.1.4). */
function sum(a, b) {
  const p = mod((a[1] - a[0]) * (b[1] - b[0]));
  const q = mod((a[1] + a[0]) * (b[1] + b[0]));
  const r = mod(2n * a[3] * D * b[3]);
  const s = mod(2n * a[2] * b[2]);
  const [e, f, g, h] = [q - p, s - r, s + r, q + p];
  return [mod(e * f), mod(g * h), mod(f * g), mod(e * h)];
}

function multiple(point, times) {
  let out = [0n, 1n, 1n, 0n];
  for (; times > 0n; times >>= 1n) {
    if (times & 1n) out = sum(out, point);
    point = sum(point, point);
  }
  return out;
}

// --- SHA-512 (FIPS 180-4), as Ed25519 needs it -------------------------------------------------------

const MASK = (1n << 64n) - 1n;

function rootOf(value, exponent) {
  let low = 0n;
  let high = 1n << 80n;
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle ** exponent <= value) low = middle;
    else high = middle;
  }
  return low;
}

function primes(count) {
  const found = [];
  for (let candidate = 2; found.length < count; candidate++) {
    if (found.every((prime) => candidate % prime)) found.push(candidate);
  }
  return found.map(BigInt);
}

let constants = null;

function sha512(data) {
  constants ??= {
    round: primes(80).map((prime) => rootOf(prime << 192n, 3n) & MASK),
    first: primes(8).map((prime) => rootOf(prime << 128n, 2n) & MASK),
  };
  const { round } = constants;
  const state = [...constants.first];
  const zeros = 127 - ((data.length + 16) % 128);
  const length = (BigInt(data.length) * 8n).toString(16).padStart(32, "0");
  const tail = length.replace(/../g, (pair) => String.fromCharCode(parseInt(pair, 16)));
  const padded = concat(data, Uint8Array.of(0x80), new Uint8Array(zeros), bytesOf(tail));
  const view = new DataView(padded.buffer);
  const turn = (value, by) => ((value >> by) | (value << (64n - by))) & MASK;
  for (let at = 0; at < padded.length; at += 128) {
    const w = Array.from({ length: 16 }, (_, i) => view.getBigUint64(at + 8 * i));
    for (let i = 16; i < 80; i++) {
      const [x, y] = [w[i - 15], w[i - 2]];
      const s0 = turn(x, 1n) ^ turn(x, 8n) ^ (x >> 7n);
      const s1 = turn(y, 19n) ^ turn(y, 61n) ^ (y >> 6n);
      w.push((w[i - 16] + s0 + w[i - 7] + s1) & MASK);
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 80; i++) {
      const s1 = turn(e, 14n) ^ turn(e, 18n) ^ turn(e, 41n);
      const t1 = h + s1 + ((e & f) ^ (~e & MASK & g)) + round[i] + w[i];
      const s0 = turn(a, 28n) ^ turn(a, 34n) ^ turn(a, 39n);
      const t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) & MASK, c, b, a, (t1 + t2) & MASK];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => {
      state[i] = (state[i] + value) & MASK;
    });
  }
  const out = new DataView(new ArrayBuffer(64));
  state.forEach((value, i) => out.setBigUint64(8 * i, value));
  return new Uint8Array(out.buffer);
}
