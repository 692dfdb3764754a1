// Inclusion in the Merkle tree of RFC 9162 §2.1.

import { InvalidInput } from "./errors.js";
import { sha256 } from "./sha256.js";

export const HASH_BYTES = 32;
export const MAX_SIZE = 2 ** 40;

/** The root that the proof leads to. Raises InvalidInput for an impossible index or length.
 * Sizes are above 32 bits, so halves are taken by division. */
export function rootFromInclusion(leaf, index, size, path) {
  if (!(index >= 0 && index < size && size <= MAX_SIZE)) {
    throw new InvalidInput("index is not below size", "proof.index");
  }
  let node = leaf;
  let used = 0;
  let last = size - 1;
  while (last > 0) {
    const isRight = index % 2 === 1;
    if (isRight || index < last) {
      const other = path[used++];
      if (other?.length !== HASH_BYTES) {
        throw new InvalidInput("the path's length is not the size's", "proof.path");
      }
      node = isRight ? sha256("\x01", other, node) : sha256("\x01", node, other);
    }
    index = Math.floor(index / 2);
    last = Math.floor(last / 2);
  }
  if (used !== path.length) {
    throw new InvalidInput("the path's length is not the size's", "proof.path");
  }
  return node;
}
