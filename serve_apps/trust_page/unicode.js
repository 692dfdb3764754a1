// NFKC and lower case of Unicode 14, whatever the browser's version: characters that came later stay
// as they are.

import { UNASSIGNED } from "./table_unassigned.js";

const LATER = pattern();

function pattern() {
  const points = [];
  let at = 0;
  for (const step of UNASSIGNED.split(" ")) points.push((at += Number(step)));
  let ranges = "";
  for (let i = 0; i < points.length; i += 2) {
    ranges += `\\u{${points[i].toString(16)}}-\\u{${points[i + 1].toString(16)}}`;
  }
  return new RegExp(`([${ranges}]+)`, "u");
}

export function nfkc(text) {
  return /^[\u0000-\u007f]*$/.test(text) ? text : known(text, (piece) => piece.normalize("NFKC"));
}

export function lowerCase(text) {
  return known(text, (piece) => piece.toLowerCase());
}

/** The text with the pieces between later characters changed. */
function known(text, change) {
  return text.split(LATER).map((piece, at) => (at % 2 ? piece : change(piece))).join("");
}
