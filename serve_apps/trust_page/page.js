// The page: reads the papers, takes the email, shows what holds.

import { fetchPapers, packed, pastedMessage, unpacked } from "./api.js";
import { parseKey } from "./checkpoint.js";
import { InvalidInput } from "./errors.js";
import { proofOfFragment } from "./fragment.js";
import { savedPage } from "./offline.js";
import { answer, byId, render } from "./render.js";
import { assess } from "./situation.js";

const MAX_MESSAGE = 50 << 20;
const state = {
  id: "",
  papers: null,
  message: null,
  own: { recipient: "", keys: [], blocks: [], nodes: [], need: 1 },
  turn: 0, // of the newest check: an older one that ends later is not shown
};

async function start() {
  wire();
  const saved = byId("saved");
  if (saved) {
    const kept = JSON.parse(saved.textContent);
    state.id = kept.id;
    state.papers = unpacked(kept.papers);
  } else {
    state.id = decodeURIComponent(location.pathname.split("/").at(-1)).toLowerCase();
    state.papers = await fetchPapers(state.id, new URL("../v1/trust/", location.href).href);
    state.papers.compact = proofOfFragment(location.hash);
  }
  byId("where").textContent = saved ? "Saved copy" : location.host;
  await check();
}

/** Looks at everything anew. `isAsked`: the reader waits for it, so the answer gets the focus. */
async function check(isAsked = false) {
  const turn = ++state.turn;
  if (!state.papers) return;
  if (isAsked) answer({ tone: "wait", title: "Checking …", lead: "" });
  const situation = await assess(state.papers, state.message, state.own);
  if (turn !== state.turn) return;
  render(situation);
  document.documentElement.dataset.ready = String(turn);
  if (isAsked) {
    byId("title").focus({ preventScroll: true });
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    byId("status").scrollIntoView({ block: "start", behavior: isCalm ? "instant" : "smooth" });
  }
}

async function take(bytes) {
  state.message = bytes;
  await check(true);
}

async function takeFile(file) {
  if (!file) return;
  if (file.size > MAX_MESSAGE) {
    const lead = "Emails of up to 50 MB are checked here.";
    answer({ tone: "warn", title: "This file is too large", lead });
    return;
  }
  await take(new Uint8Array(await file.arrayBuffer()));
}

function wire() {
  const zone = byId("zone");
  guarded(byId("file"), "change", async (event) => {
    await takeFile(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  guarded(byId("check-source"), "click", () => take(pastedMessage(byId("source").value)));
  for (const kind of ["dragover", "dragenter"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) {
    addEventListener(kind, () => zone.classList.remove("over"));
  }
  guarded(window, "drop", async (event) => {
    event.preventDefault();
    await takeFile(event.dataTransfer.files[0]);
  });
  guarded(byId("own"), "submit", async (event) => {
    event.preventDefault();
    if (readOwn()) await check(true);
  });
  guarded(byId("save"), "click", save);
  byId("print").addEventListener("click", () => print());
  guarded(window, "hashchange", async () => {
    if (!state.papers || byId("saved")) return;
    state.papers.compact = proofOfFragment(location.hash);
    await check();
  });
}

/** A handler whose failure is told, not lost. */
function guarded(target, kind, handle) {
  target.addEventListener(kind, (event) => Promise.resolve(handle(event)).catch(broken));
}

function broken(error) {
  const lead = "Something in the page failed. Nothing is said of the email by that.";
  answer({ tone: "warn", title: "This could not be checked", lead });
  throw error;
}

/** What the reader entered. False if it can't be read; the page says why. */
function readOwn() {
  const lines = (id) => byId(id).value.split("\n").map((line) => line.trim()).filter(Boolean);
  try {
    state.own = {
      recipient: byId("own-recipient").value.trim(),
      keys: lines("own-keys").map(parseKey),
      blocks: lines("own-blocks").map(blockOf),
      nodes: lines("own-nodes"),
      need: Math.max(1, Number(byId("own-need").value) || 1),
    };
    byId("own-error").textContent = "";
    return true;
  } catch (error) {
    if (!(error instanceof InvalidInput)) throw error;
    byId("own-error").textContent = `This can’t be read: ${error.message}.`;
    return false;
  }
}

function blockOf(line) {
  const match = /^([0-9]+):(?:0x)?([0-9a-f]{64})$/.exec(line.toLowerCase());
  if (!match) throw new InvalidInput("a block is written as chain:hash");
  return `${Number(match[1])}:${match[2]}`;
}

async function save() {
  try {
    const read = async (name) => {
      const place = name === "page.html" ? location.pathname : `assets/${name}`;
      const found = await fetch(new URL(place, location.href));
      if (!found.ok) throw new Error(`${name}: ${found.status}`);
      return found.text();
    };
    const savedAt = new Date().toISOString();
    const papers = { ...packed(state.papers), savedAt, keysFrom: location.host };
    const text = await savedPage(read, { id: state.id, papers });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/html" }));
    link.download = `certificate-${state.id}.html`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    byId("save-error").textContent = "";
  } catch {
    byId("save-error").textContent = "The page could not be saved: the site can’t be reached.";
  }
}

start().catch(broken);
