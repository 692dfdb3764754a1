// What goes wrong, with words for people.

/** Something does not have the form that it must have. `field`: which member. */
export class InvalidInput extends Error {
  constructor(message, field = "") {
    super(message);
    this.field = field;
  }
}

/** A step of the verification does not hold (spec §7). `partial`: what was known by then. */
export class Failed extends Error {
  constructor(step, reason, partial = null) {
    super(reason);
    this.step = step;
    this.partial = partial;
  }
}
