// How much of a certified message is in the one at hand (spec §7.4).

import { equal } from "./bytes.js";
import { linksDigest } from "./links.js";
import { textDigest } from "./text.js";

export const Level = {
  EXACT: "exact",
  TEXT: "same text",
  EXTENDED: "same text with additions",
  LINKS: "same links only",
  DIFFERENT: "different",
};

const MIN_WINDOW = 32; // a shorter text is found by chance within others
const MAX_BEFORE = 8192; // a gateway's banner is shorter
const MAX_EDGE_LINKS = 8;

/** The run of the text with each reading of the links right at its ends. */
export async function windowsAt(message, begin, size) {
  const end = begin + size;
  const digest = await textDigest(message.text.subarray(begin, end));
  const at = (place) => message.links.filter((link) => link.at === place).map((link) => link.origin);
  const inside = message.links
    .filter((link) => begin < link.at && link.at < end)
    .map((link) => link.origin);
  const first = at(begin).slice(-MAX_EDGE_LINKS);
  const last = at(end).slice(0, MAX_EDGE_LINKS);
  const tried = new Set();
  const found = [];
  for (let left = first.length; left >= 0; left--) {
    for (let right = last.length; right >= 0; right--) {
      const origins = new Set([
        ...inside, ...first.slice(first.length - left), ...last.slice(0, right),
      ]);
      const name = [...origins].sort().join("\n");
      if (tried.has(name)) continue;
      tried.add(name);
      const added = message.origins.filter((origin) => !origins.has(origin));
      found.push({ begin, textDigest: digest, linksDigest: linksDigest(origins), added });
    }
  }
  return found;
}

/** Where a text of `size` bytes may begin within a longer one. With its digest `wanted` every place
 * is tried; without, the two that gateways leave. `rest`: awaited now and then, so that a page lives
 * on while a large message is searched. */
export async function begins(message, size, wanted = null, rest = null) {
  const spare = message.text.length - size;
  if (size < MIN_WINDOW || spare <= 0) return [];
  if (wanted === null) return spare <= MAX_BEFORE ? [0, spare] : [0];
  let hashed = 0;
  for (let begin = 0; begin <= Math.min(spare, MAX_BEFORE); begin++) {
    if ((message.text[begin] & 0xc0) === 0x80) continue; // not the first byte of a character
    if (equal(await textDigest(message.text.subarray(begin, begin + size)), wanted)) return [begin];
    hashed += size;
    if (rest && hashed > 1 << 21) {
      hashed = 0;
      await rest();
    }
  }
  return [];
}
