// HTML into what a reader could see, and where tags point (spec §3, "HTML tokens").
//
// Not a browser's tree, though a browser is at hand: three implementations must agree byte for byte.

import { unescape } from "./references.js";

const MAX_ENDLESS = 16; // tags without an end; after so many none is sought: each costs a long look
const FOREIGN = /<(?:svg|math)(?=[\t\n\f\r />])/i;
const NAME = /[^\t\n\f\r />]+/y;
const SKIP = /[\t\n\f\r /]*/y;
const ATTRIBUTE = /=?[^\t\n\f\r />=]*/y;
const EQUALS = /[\t\n\f\r ]*=[\t\n\f\r ]*/y;
const BARE = /[^\t\n\f\r >]*/y;
const DROPPED = ["script", "style", "title"];
const RAW = ["textarea", "xmp", "noembed", "noframes", "iframe"];
const POINTING = ["href", "xlink:href", "action", "formaction"];

/** Chunks of text and links in reading order: `{link, value}`. */
export function tokens(source) {
  return new Reader(source).read();
}

function isLetter(character) {
  return (character >= "a" && character <= "z") || (character >= "A" && character <= "Z");
}

function match(pattern, source, at) {
  pattern.lastIndex = at;
  const found = pattern.exec(source);
  return found ? found[0] : null;
}

class Reader {
  constructor(source) {
    this.source = source;
    this.isForeign = FOREIGN.test(source);
    this.endless = 0;
    // What was sought and is not there is not sought again: hostile input stays cheap.
    this.gone = new Set();
    this.absentFrom = new Map();
    this.out = [];
  }

  read() {
    const { source } = this;
    let start = 0;
    let at = source.indexOf("<");
    while (at >= 0) {
      const markup = this.markup(at);
      if (!markup) {
        at = source.indexOf("<", at + 1);
        continue;
      }
      this.text(start, at);
      for (const value of markup.links ?? []) this.out.push({ link: true, value });
      start = this.content(markup.name ?? "", markup.end);
      at = source.indexOf("<", start);
    }
    this.text(start, source.length);
    return this.out;
  }

  text(from, to) {
    if (from < to) this.out.push({ link: false, value: unescape(this.source.slice(from, to)) });
  }

  /** What begins at this "<", or null if it is text. */
  markup(at) {
    const { source } = this;
    const next = source[at + 1] ?? "";
    if (isLetter(next)) return this.tag(at + 1);
    if (next === "/" && isLetter(source[at + 2] ?? "")) {
      const closing = this.tag(at + 2);
      return closing && { ...closing, name: "" };
    }
    if (source.startsWith("<!--", at)) return this.comment(at + 4);
    if (next && "!?/".includes(next) && !this.isForeign) {
      const end = this.find(">", at + 2);
      return end < 0 ? null : { end: end + 1 };
    }
    return null;
  }

  /** Elements whose content is no markup. Returns where reading goes on. */
  content(name, at) {
    const { source } = this;
    if (name === "plaintext") {
      if (at < source.length) this.out.push({ link: false, value: source.slice(at) });
      return source.length;
    }
    const isDropped = DROPPED.includes(name) && !this.isForeign;
    if ((!isDropped && !RAW.includes(name)) || this.gone.has(name)) return at;
    const ending = new RegExp(`</${name}(?=[\\t\\n\\f\\r />])`, "gi");
    ending.lastIndex = at;
    const found = ending.exec(source);
    if (!found) {
      this.gone.add(name);
      return at;
    }
    if (!isDropped) this.text(at, found.index);
    return found.index;
  }

  comment(at) {
    if (this.source.startsWith(">", at)) return { end: at + 1 };
    if (this.source.startsWith("->", at)) return { end: at + 2 };
    if (this.gone.has("--")) return null;
    const ending = /--!?>/g;
    ending.lastIndex = at;
    if (ending.exec(this.source)) return { end: ending.lastIndex };
    this.gone.add("--");
    return null;
  }

  find(what, at) {
    if (at >= (this.absentFrom.get(what) ?? this.source.length)) return -1;
    const found = this.source.indexOf(what, at);
    if (found < 0) this.absentFrom.set(what, at);
    return found;
  }

  /** The tag whose name starts at `at`; null when it never ends. */
  tag(at) {
    if (this.endless >= MAX_ENDLESS || this.find(">", at) < 0) return null;
    const found = this.wholeTag(at);
    if (!found) this.endless++;
    return found;
  }

  wholeTag(at) {
    const { source } = this;
    const written = match(NAME, source, at);
    const name = written.toLowerCase();
    const links = [];
    at += written.length;
    for (;;) {
      at += match(SKIP, source, at).length;
      if (at >= source.length) return null;
      if (source[at] === ">") return { name, links, end: at + 1 };
      const attribute = match(ATTRIBUTE, source, at);
      at += attribute.length;
      let value = "";
      const equals = match(EQUALS, source, at);
      if (equals !== null) {
        at += equals.length;
        const quote = source[at];
        if (quote === '"' || quote === "'") {
          const end = this.find(quote, at + 1);
          if (end < 0) return null;
          value = source.slice(at + 1, end);
          at = end + 1;
        } else {
          value = match(BARE, source, at);
          at += value.length;
        }
      }
      if (name !== "link" && POINTING.includes(attribute.toLowerCase())) links.push(unescape(value));
    }
  }
}
