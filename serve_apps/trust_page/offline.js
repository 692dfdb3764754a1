// The page as one file that needs no site: its modules joined, its styles inside, its papers with it.

import { base64, utf8 } from "./bytes.js";
import { sha256 } from "./sha256.js";

const ENTRY = "page.js";
const IMPORT = /^import \{([^}]*)\} from "\.\/([\w.]+)";$/gm;
const LAZY = /await import\("\.\/([\w.]+)"\)/g;
const EXPORT = /^export (async function|function|const|class) (\w+)/gm;

/** The whole file as text. `read(name)` gives the text of one of the page's files. */
export async function savedPage(read, saved) {
  const [html, css, icon] = await Promise.all([read("page.html"), read("page.css"), read("icon.svg")]);
  const script = await joined(read);
  const style = css.replaceAll('url("icon.svg")', `url("${dataAddress(icon)}")`);
  const policy = [
    "default-src 'none'", `script-src 'sha256-${base64(sha256(utf8(script)))}'`,
    `style-src 'sha256-${base64(sha256(utf8(style)))}'`, "img-src data:", "connect-src *",
    "base-uri 'none'", "form-action 'none'",
  ].join("; ");
  const papers = JSON.stringify(saved).replaceAll("<", "\\u003c");
  return html
    .replace("<html lang", () => '<html data-mode="saved" lang')
    .replace('<meta charset="utf-8">', (meta) =>
      `${meta}\n<meta http-equiv="Content-Security-Policy" content="${policy}">`)
    .replace(/<link rel="modulepreload"[^>]*>\n/g, "")
    .replace(/<link rel="icon"[^>]*>/, () => `<link rel="icon" href="${dataAddress(icon)}">`)
    .replace(/<link rel="stylesheet"[^>]*>/, () => `<style>${style}</style>`)
    .replace(/<script type="module"[^>]*><\/script>/, () => "")
    .replace("</body>", () =>
      `<script type="application/json" id="saved">${papers}</script>\n` +
      `<script type="module">${script}</script>\n</body>`);
}

function dataAddress(svg) {
  return `data:image/svg+xml;base64,${base64(utf8(svg))}`;
}

/** All modules in one: each a function that gives what it exports, in the order of need. */
async function joined(read) {
  const sources = new Map();
  const order = [];
  const visit = async (name) => {
    if (sources.has(name)) return;
    const source = await read(name);
    sources.set(name, source);
    for (const [, , needed] of source.matchAll(IMPORT)) await visit(needed);
    for (const [, needed] of source.matchAll(LAZY)) await visit(needed);
    order.push(name);
  };
  await visit(ENTRY);
  const modules = order.map((name) => wrapped(name, sources.get(name)));
  // Neither may stand in a script within HTML.
  return ["const $modules = {};", ...modules].join("\n")
    .replaceAll("<!--", "<\\!--").replaceAll("</script", "<\\/script");
}

function wrapped(name, source) {
  const exported = Array.from(source.matchAll(EXPORT), ([, , what]) => what);
  const body = source
    .replace(IMPORT, (_, names, from) =>
      `const {${names.replaceAll(/(\w+) as (\w+)/g, "$1: $2")}} = $modules["${from}"];`)
    .replace(LAZY, '$modules["$1"]')
    .replace(EXPORT, "$1 $2");
  return `$modules["${name}"] = await (async () => {\n${body}\nreturn { ${exported.join(", ")} };\n})();`;
}
