// Asks nodes of the reader's own choice whether they have a block. From a saved page: the site's own
// page may talk to its site alone.

const TIMEOUT_MS = 10_000;

/** What each node says of each block: `source`, `chainId`, `hash`, `final`. A node that does not
 * answer, or is of another chain, says nothing. `blocks`: chainId, number, hash in hex. */
export async function sightingsOf(nodes, blocks) {
  const found = await Promise.all(nodes.map((node) => ofNode(node, blocks).catch(() => [])));
  return found.flat();
}

async function ofNode(node, blocks) {
  const chainId = Number(await ask(node, "eth_chainId", []));
  const final = await ask(node, "eth_getBlockByNumber", ["finalized", false]).catch(() => null);
  const found = [];
  for (const block of blocks.filter((one) => one.chainId === chainId)) {
    const number = `0x${block.number.toString(16)}`;
    const theirs = await ask(node, "eth_getBlockByNumber", [number, false]);
    if (theirs?.hash?.toLowerCase() !== `0x${block.hash}`) continue;
    const isFinal = final !== null && Number(final.number) >= block.number;
    found.push({ source: node, chainId, hash: block.hash, final: isFinal });
  }
  return found;
}

async function ask(node, method, params) {
  const answer = await fetch(node, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    signal: AbortSignal.timeout(TIMEOUT_MS),
    credentials: "omit",
  });
  const { result, error } = await answer.json();
  if (error || result === undefined || result === null) throw new Error("the node does not know");
  return result;
}
