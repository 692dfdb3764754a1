// Reading members of a closed document: each is there, of its kind, and no other is.

import { unhex } from "./bytes.js";
import { InvalidInput } from "./errors.js";

const HEX = /^(?:[0-9a-f]{2})*$/;

export class Members {
  /** `names`: all that it has, separated by spaces. */
  constructor(value, where, names) {
    const wanted = names.split(" ");
    const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
    const found = isObject ? Object.keys(value) : [];
    if (found.length !== wanted.length || !wanted.every((name) => found.includes(name))) {
      throw new InvalidInput(`${where} has not just the members ${names}`, where);
    }
    this.value = value;
    this.where = where;
  }

  wrong(name, why) {
    const field = `${this.where}.${name}`.replace(/^\.+/, "");
    return new InvalidInput(`${field} ${why}`, field);
  }

  get(name) {
    return this.value[name];
  }

  constant(name, wanted) {
    if (this.value[name] !== wanted) {
      const shown = typeof wanted === "string" ? `'${wanted}'` : wanted;
      throw this.wrong(name, `is not ${shown}`);
    }
  }

  /** `limit` counts characters. */
  text(name, limit) {
    const value = this.value[name];
    const isText = typeof value === "string";
    if (!isText || (value.length > limit && [...value].length > limit)) {
      throw this.wrong(name, `is no text of at most ${limit} characters`);
    }
    return value;
  }

  number(name, limit = Number.MAX_SAFE_INTEGER) {
    const value = this.value[name];
    if (!Number.isInteger(value) || value < 0 || value > limit) {
      throw this.wrong(name, `is no whole number from 0 to ${limit}`);
    }
    return value;
  }

  items(name, limit) {
    const value = this.value[name];
    if (!Array.isArray(value) || value.length > limit) {
      throw this.wrong(name, `is no list of at most ${limit}`);
    }
    return value;
  }

  /** `size`: in bytes; null for any. */
  hex(name, size = null) {
    return this.asHex(name, this.value[name], size);
  }

  hexes(name, limit, size = null) {
    return this.items(name, limit).map((item) => this.asHex(name, item, size));
  }

  asHex(name, value, size) {
    if (typeof value !== "string" || !HEX.test(value)) {
      throw this.wrong(name, "is not hex in lower case");
    }
    if (size !== null && value.length !== 2 * size) throw this.wrong(name, `has not ${size} bytes`);
    return unhex(value);
  }
}
