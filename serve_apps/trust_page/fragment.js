// The proof in a link's fragment: the compact certificate as one decimal number, a byte 1 before it.

import { unhex } from "./bytes.js";

const MAX_DIGITS = 4000;

/** The compact certificate's bytes, or null if the fragment holds none. */
export function proofOfFragment(fragment) {
  const digits = fragment.replace(/^#/, "");
  if (!/^[1-9][0-9]*$/.test(digits) || digits.length > MAX_DIGITS) return null;
  const text = BigInt(digits).toString(16);
  const bytes = unhex(text.padStart(text.length + (text.length % 2), "0"));
  return bytes[0] === 1 && bytes.length > 1 ? bytes.slice(1) : null;
}
