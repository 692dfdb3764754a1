// Where links lead: known wrappers taken off, then the origin (spec §4). The list is closed.

import { bytesOf, compare, fromBase64Letters, lenientUtf8, strictUtf8, utf8 } from "./bytes.js";
import { InvalidInput } from "./errors.js";
import { parse } from "./json.js";
import { lowerCase, nfkc } from "./unicode.js";
import { sha256 } from "./sha256.js";

const MAX_UNWRAPS = 5;
const HTTP = /^https?:\/\//i;
const SPLIT = /^https?:\/\/([^/?#\\]*)(\/[^?#]*)?(?:\?([^#]*))?/i;
const SCHEME = /^([a-zA-Z][a-zA-Z0-9+.-]*):/;
const HOST = /^(?:\[[^\]]*\]|(?:[A-Za-z0-9._-]|[^\u0000-\u007f])*)/;
const DEFAULT_PORT = { http: 80, https: 443 };

const OPENERS = {
  "urldefense.proofpoint.com": proofpoint,
  "urldefense.com": (_path, _query, url) => proofpoint3(url),
  "google.com": google,
  "www.google.com": google,
  "linkprotect.cudasvc.com": (path, query) => (path === "/url" ? plain(query, "a") : null),
  "secure-web.cisco.com": (path) => percentDecoded(path.slice(path.lastIndexOf("/") + 1)),
  "mandrillapp.com": (path, query) => (path.startsWith("/track/click/") ? mandrill(query) : null),
};

/** The URL inside the wrappers of mail gateways and click trackers. */
export function unwrap(url) {
  for (let times = 0; times < MAX_UNWRAPS; times++) {
    const inner = innerOf(url);
    if (inner === null || !HTTP.test(inner)) break;
    url = inner;
  }
  return url;
}

function innerOf(url) {
  const match = SPLIT.exec(url);
  if (!match) return null;
  const host = match[1].toLowerCase();
  const path = match[2] ?? "";
  const query = match[3] ?? "";
  if (Object.hasOwn(OPENERS, host)) return OPENERS[host](path, query, url);
  return host.endsWith(".safelinks.protection.outlook.com") ? plain(query, "url") : null;
}

/** The first parameter of this name, as it stands in the query. */
function parameter(query, name) {
  const found = query.split("&").find((piece) => piece.startsWith(`${name}=`));
  return found === undefined ? null : found.slice(name.length + 1);
}

function plain(query, ...names) {
  for (const name of names) {
    const value = parameter(query, name);
    if (value !== null) return percentDecoded(value);
  }
  return null;
}

/** As UTF-8; characters that are not ASCII stay, and "+" does. */
function percentDecoded(text) {
  if (!text.includes("%")) return text;
  return text.replace(/[\u0000-\u007f]+/g, (run) => {
    const binary = run.replace(/%([0-9a-fA-F]{2})/g, (_, code) =>
      String.fromCharCode(parseInt(code, 16)),
    );
    return lenientUtf8(bytesOf(binary));
  });
}

function google(path, query) {
  return path === "/url" ? plain(query, "q", "url") : null;
}

function proofpoint(path, query, url) {
  if (path.startsWith("/v1/")) return plain(query, "u");
  if (!path.startsWith("/v2/")) return proofpoint3(url);
  const value = parameter(query, "u");
  return value && percentDecoded(value.replaceAll("-", "%").replaceAll("_", "/"));
}

/** Between the first `__` and the last `__;`, on one line. */
function proofpoint3(url) {
  for (const line of url.split("\n")) {
    const start = line.indexOf("/v3/__") + 6;
    const end = line.lastIndexOf("__;");
    if (start < 6 || end <= start) continue;
    const spare = base64url(/^[A-Za-z0-9_-]*/.exec(line.slice(end + 3))[0]);
    let used = 0;
    return line
      .slice(start, end)
      .replaceAll("*", () => (used < spare.length ? String.fromCharCode(spare[used++]) : "*"));
  }
  return null;
}

function mandrill(query) {
  const value = parameter(query, "p");
  if (value === null) return null;
  try {
    const inner = memberOf(jsonOf(strictUtf8(base64url(percentDecoded(value)))), "p");
    const url = memberOf(jsonOf(inner), "url");
    return typeof url === "string" ? url : null;
  } catch (error) {
    if (error instanceof InvalidInput) return null;
    throw error;
  }
}

function jsonOf(text) {
  if (typeof text !== "string") throw new InvalidInput("not JSON");
  return parse(text);
}

function memberOf(value, name) {
  const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
  if (!isObject || !Object.hasOwn(value, name)) throw new InvalidInput(`no member ${name}`);
  return value[name];
}

/** As lenient as mail needs it: what is not of the alphabet is skipped, padding may be missing. */
function base64url(text) {
  const bare = text.replace(/=+$/, "");
  let letters = bare.slice(0, bare.length - ([...bare].length % 4 === 1 ? 1 : 0)) + "==";
  if (/[^\u0000-\u007f]/.test(letters)) return new Uint8Array(0);
  letters = letters.replaceAll("-", "+").replaceAll("_", "/");
  let kept = "";
  let pads = 0;
  for (const letter of letters) {
    if (letter === "=") {
      pads++;
      if (kept.length % 4 >= 2 && (kept.length % 4) + pads >= 4) return fromBase64Letters(kept);
    } else if (/[A-Za-z0-9+/]/.test(letter)) {
      kept += letter;
      pads = 0;
    }
  }
  return kept.length % 4 ? new Uint8Array(0) : fromBase64Letters(kept);
}

/** What browsers do to an attribute's URL before they read it. */
export function trim(value) {
  let from = 0;
  let to = value.length;
  while (from < to && value.charCodeAt(from) <= 32) from++;
  while (to > from && value.charCodeAt(to - 1) <= 32) to--;
  return value.slice(from, to).replace(/[\t\r\n]/g, "");
}

/** `https://example.com`; null for what leads nowhere else (relative, fragment). */
export function originOf(url) {
  url = url.replaceAll("\\", "/");
  const match = SCHEME.exec(url);
  if (!match) return url.startsWith("//") ? webOrigin("https", url) : null;
  const scheme = match[1].toLowerCase();
  const rest = url.slice(match[0].length);
  if (scheme === "http" || scheme === "https") return webOrigin(scheme, rest);
  if (scheme !== "mailto") return `${scheme}:`;
  const host = hostOf(percentDecoded(rest.split(/[?#]/, 1)[0]).split("@").at(-1)).host;
  return host ? `mailto:${host}` : null;
}

function webOrigin(scheme, rest) {
  const authority = rest.replace(/^\/+/, "").split(/[/?#]/, 1)[0].split("@").at(-1);
  const { host, length } = hostOf(authority);
  if (!host) return null;
  const digits = /^:([0-9]+)/.exec(authority.slice(length))?.[1];
  const port = digits && digits.length < 10 ? Number(digits) : null;
  const isDefault = port === null || port === DEFAULT_PORT[scheme];
  return isDefault ? `${scheme}://${host}` : `${scheme}://${host}:${port}`;
}

function hostOf(text) {
  const written = HOST.exec(text)[0];
  const host = lowerCase(nfkc(written)).replace(/^\.+/, "");
  let end = host.length;
  while (end > 0 && host[end - 1] === ".") end--;
  return { host: host.slice(0, end), length: written.length };
}

/** Of a set of origins: each once, in the order of their bytes. */
export function sortedOrigins(origins) {
  const pairs = [...new Set(origins)].map((origin) => [utf8(origin), origin]);
  return pairs.sort((a, b) => compare(a[0], b[0])).map(([, origin]) => origin);
}

/** L1. */
export function linksDigest(origins) {
  return sha256("maily-links-v1\n", utf8(sortedOrigins(origins).join("\n")));
}
