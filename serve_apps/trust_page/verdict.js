// What a verification answers.

import { Level } from "./levels.js";

/** An answer in which nothing is known yet. */
export function emptyVerdict() {
  return {
    level: Level.DIFFERENT,
    state: "included", // or confirmed, final, revoked
    holds: false,
    failedStep: null, // null when every step held
    reason: "",
    differs: [],
    sender: "unknown", // or same, other
    messageId: "unknown",
    recipient: "unknown",
    domain: "",
    signers: [],
    addedBytes: 0,
    addedBefore: "",
    addedAfter: "",
    addedOrigins: [],
    missingOrigins: [],
    seen: [], // anchors that hold: chainId, number, time, hash, final
    leaf: null,
    root: null,
  };
}
