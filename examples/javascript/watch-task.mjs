// Have an email written and watch it being written:
//   MAILY_API_KEY=mk_… node watch-task.mjs "Spring sale"
// (Node 20 and 21: node --experimental-websocket …)

import { Streams } from "./maily-streams.js";

const url = process.env.MAILY_URL ?? "http://127.0.0.1:8000";
const key = process.env.MAILY_API_KEY;
const goal = process.argv.slice(2).join(" ") || "Invite our customers to the spring sale";

const answer = await fetch(`${url}/v1/mesh/tasks`, {
  method: "POST",
  headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
  body: JSON.stringify({ brief: { goal } }),
});
const task = await answer.json();
if (!answer.ok) throw new Error(`${task.code}: ${task.message}`);

const streams = new Streams(url, key);
for await (const event of streams.task(task.id)) {
  if (event.type === "tokens") process.stdout.write(event.data.text);
  else console.log(`\n[${event.type}]`, event.data.step ?? "");
}
streams.close();
