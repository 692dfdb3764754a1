// A message's canonical form: all that a leaf is made of, from the message alone (spec §1–§4).

import { binaryOf } from "./bytes.js";
import { decodeText, needsEastAsian } from "./charsets.js";
import {
  domainOf, exactDigest, messageIdOf, recipientsOf, selectorsOf, splitMessage,
} from "./headers.js";
import { linksDigest, sortedOrigins } from "./links.js";
import { carriedCertificate, shownParts, withoutCertificate } from "./mime.js";
import { readText, textDigest } from "./text.js";

/** Any bytes at all give a canonical form: a mail that crashes a verifier can't be refused. */
export async function canonicalise(raw) {
  const message = withoutCertificate(splitMessage(binaryOf(raw)));
  const parts = shownParts(message);
  const isLarge = needsEastAsian(parts.map((part) => part.charset));
  const table = isLarge ? await import("./table_double.js") : null;
  const text = readText(
    parts.map(({ bytes, charset, isHtml }) => ({ text: decodeText(bytes, charset, table), isHtml })),
  );
  const origins = sortedOrigins(text.links.map((link) => link.origin));
  return {
    exact: exactDigest(message),
    text: text.bytes,
    textDigest: await textDigest(text.bytes),
    links: text.links,
    pieces: text.pieces,
    origins,
    linksDigest: linksDigest(origins),
    domain: domainOf(message),
    messageId: messageIdOf(message),
    recipients: recipientsOf(message),
    selectors: selectorsOf(message),
  };
}

/** The certificate that a message carries, as bytes, or null. */
export function certificateIn(raw) {
  return carriedCertificate(splitMessage(binaryOf(raw)));
}
