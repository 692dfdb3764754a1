// Keccak-256 as Ethereum has it (padding 0x01, not SHA-3's 0x06), on 32-bit halves of its lanes.

const RATE = 136;
const [LOW, HIGH] = roundConstants();
const [ORDER, TURNS] = permutation();

/** By the linear feedback shift register of the Keccak reference, §1.2. */
function roundConstants() {
  const low = new Int32Array(24);
  const high = new Int32Array(24);
  let state = 1;
  for (let round = 0; round < 24; round++) {
    for (let bit = 0; bit < 7; bit++) {
      if (state & 1) {
        const place = (1 << bit) - 1;
        if (place < 32) low[round] ^= 1 << place;
        else high[round] ^= 1 << (place - 32);
      }
      state = (state << 1) ^ (state & 0x80 ? 0x171 : 0);
    }
  }
  return [low, high];
}

/** Of rho and pi: which lane comes next, and how far it turns. */
function permutation() {
  const order = [];
  const turns = [];
  let x = 1;
  let y = 0;
  for (let step = 0; step < 24; step++) {
    [x, y] = [y, (2 * x + 3 * y) % 5];
    order.push(x + 5 * y);
    turns.push((((step + 1) * (step + 2)) / 2) % 64);
  }
  return [order, turns];
}

/** 32 bytes. */
export function keccak256(data) {
  const low = new Int32Array(25);
  const high = new Int32Array(25);
  const padded = new Uint8Array(data.length + RATE - (data.length % RATE));
  padded.set(data);
  padded[data.length] = 1;
  padded[padded.length - 1] |= 0x80;
  const view = new DataView(padded.buffer);
  for (let at = 0; at < padded.length; at += RATE) {
    for (let lane = 0; lane < RATE / 8; lane++) {
      low[lane] ^= view.getInt32(at + 8 * lane, true);
      high[lane] ^= view.getInt32(at + 8 * lane + 4, true);
    }
    for (let round = 0; round < 24; round++) {
      permute(low, high);
      low[0] ^= LOW[round];
      high[0] ^= HIGH[round];
    }
  }
  const out = new DataView(new ArrayBuffer(32));
  for (let lane = 0; lane < 4; lane++) {
    out.setInt32(8 * lane, low[lane], true);
    out.setInt32(8 * lane + 4, high[lane], true);
  }
  return new Uint8Array(out.buffer);
}

function permute(low, high) {
  const sumLow = new Int32Array(5);
  const sumHigh = new Int32Array(5);
  for (let at = 0; at < 25; at++) {
    sumLow[at % 5] ^= low[at];
    sumHigh[at % 5] ^= high[at];
  }
  for (let x = 0; x < 5; x++) {
    const next = (x + 1) % 5;
    const before = (x + 4) % 5;
    const mixLow = sumLow[before] ^ ((sumLow[next] << 1) | (sumHigh[next] >>> 31));
    const mixHigh = sumHigh[before] ^ ((sumHigh[next] << 1) | (sumLow[next] >>> 31));
    for (let at = x; at < 25; at += 5) {
      low[at] ^= mixLow;
      high[at] ^= mixHigh;
    }
  }
  let heldLow = low[1];
  let heldHigh = high[1];
  for (let step = 0; step < 24; step++) {
    const at = ORDER[step];
    const turn = TURNS[step];
    let l = heldLow;
    let h = heldHigh;
    if (turn >= 32) [l, h] = [h, l];
    const by = turn % 32;
    heldLow = low[at];
    heldHigh = high[at];
    low[at] = by ? (l << by) | (h >>> (32 - by)) : l;
    high[at] = by ? (h << by) | (l >>> (32 - by)) : h;
  }
  for (let row = 0; row < 25; row += 5) {
    const l = low.slice(row, row + 5);
    const h = high.slice(row, row + 5);
    for (let x = 0; x < 5; x++) {
      low[row + x] = l[x] ^ (~l[(x + 1) % 5] & l[(x + 2) % 5]);
      high[row + x] = h[x] ^ (~h[(x + 1) % 5] & h[(x + 2) % 5]);
    }
  }
}
