// Streams of Maily Mesh that survive whatever the network does: for browsers and Node, without
// dependencies.
//
//   const streams = new Streams("http://127.0.0.1:8000", token);
//   for await (const event of streams.task(taskId)) console.log(event.type, event.data);
//   streams.close();
//
// One WebSocket holds any number of topics. It reconnects by itself, with a growing, random wait,
// and goes on after the last event that you were given: each event comes once and in order,
// whichever replica answers. `events` does the same over HTTP where WebSockets do not pass.
//
// `token` is an API key or token, or an async function that fetches a fresh one: it is asked
// before each connection and whenever the server warns that the last one is about to expire. In
// a browser give a function: an API key must not be in a page.

export const PROTOCOL = "maily.v1";
const GONE_MS = 45_000; // the server pings every 15 s: one that is silent for longer is gone
const QUEUE = 1_000; // events that wait for your loop before no more are taken from the server

/** The server refused: `code`, `message`, `details` and `traceId` are its own. */
export class StreamError extends Error {
  constructor(body) {
    super(body.message ?? body.code ?? "refused");
    this.name = "StreamError";
    this.code = body.code ?? "unknown";
    this.details = body.details ?? {};
    this.traceId = body.traceId ?? null;
  }
}

/** Milliseconds before attempt number `attempt`: doubled, drawn from the upper half. */
export function backoff(attempt, { firstMs = 200, mostMs = 10_000 } = {}) {
  const limit = Math.min(mostMs, firstMs * 2 ** Math.min(attempt, 30));
  return limit * (0.5 + Math.random() / 2);
}

const sleep = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });

const fetchToken = async (token) => (typeof token === "function" ? await token() : token);

/** Events of one topic, waiting for a `for await` loop. */
class Subscription {
  constructor(streams, id, topic, { after = null, types = [], steps = [] } = {}) {
    Object.assign(this, { streams, id, topic, after, filter: { types, steps } });
    this.items = [];
    this.waiter = null;
    this.done = false;
    this.error = null;
    this.count = null; // of a room: how many subscribe to it
    this.parked = false; // your loop is slow: the log keeps the rest until it has caught up
  }

  push(event) {
    this.items.push(event);
    this.wake();
  }

  end(error = null) {
    this.done = true;
    this.error = error;
    this.wake();
  }

  wake() {
    this.waiter?.();
    this.waiter = null;
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.items.length) {
          const item = this.items.shift();
          if (this.parked && this.items.length < QUEUE / 2) this.streams.unpark(this);
          yield item;
        }
        if (this.error) throw this.error;
        if (this.done) return;
        await new Promise((resolve) => (this.waiter = resolve));
      }
    } finally {
      this.streams.forget(this);
    }
  }
}

export class Streams {
  /** `options`: `WebSocket` (a constructor, where there is no global one), `firstMs`, `mostMs`. */
  constructor(baseUrl, token, options = {}) {
    this.url = baseUrl.replace(/\/+$/, "").replace(/^http/, "ws") + "/v1/mesh/ws";
    this.token = token;
    this.options = options;
    this.Socket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.Socket) throw new Error("no WebSocket here: pass one, or use Node 22");
    this.subscriptions = new Map();
    this.answers = new Map();
    this.stop = new AbortController();
    this.socket = null;
    this.ready = false;
    this.failure = null;
    this.ids = 0;
    this.reconnects = 0;
    this.running = this.run();
  }

  /** All events of a task, to its end. */
  task(id, options) {
    return this.subscribe(`task:${id}`, options);
  }

  /** Events of a topic, for `for await`; `after` is a cursor, `start` or `now`. Leave the loop to
   * unsubscribe. Throws StreamError where the server refuses. */
  subscribe(topic, options) {
    const one = new Subscription(this, `s${++this.ids}`, topic, options);
    if (this.failure) one.end(this.failure);
    this.subscriptions.set(one.id, one);
    if (this.ready) this.say(subscribeMessage(one));
    return one;
  }

  /** Say something in a room; gives its cursor. Published once, also when the connection breaks
   * before the answer: it is sent again with the same key. */
  publish(room, data) {
    const id = `p${++this.ids}`;
    const key = globalThis.crypto?.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    const message = { type: "publish", id, topic: `room:${room}`, data, key };
    return new Promise((resolve, reject) => {
      if (this.failure) return reject(this.failure);
      this.answers.set(id, { message, resolve, reject });
      if (this.ready) this.say(message);
    });
  }

  close() {
    this.stop.abort();
    this.socket?.close(1000);
    for (const one of this.subscriptions.values()) one.end();
  }

  forget(one) {
    if (this.subscriptions.delete(one.id) && this.ready) {
      this.say({ type: "unsubscribe", id: one.id });
    }
  }

  // Browsers can't stop reading a socket, so a subscription whose loop is slow is left, and taken up
  // again after its last event, under another id: what is on its way under the old one is ignored.
  park(one) {
    one.parked = true;
    this.subscriptions.delete(one.id);
    this.say({ type: "unsubscribe", id: one.id });
    one.id = `s${++this.ids}`;
    this.subscriptions.set(one.id, one);
  }

  unpark(one) {
    one.parked = false;
    if (this.ready) this.say(subscribeMessage(one));
  }

  say(message) {
    // What a broken connection does not take is said again when the next one opens.
    if (this.socket?.readyState === 1) this.socket.send(JSON.stringify(message));
  }

  async run() {
    for (let attempt = 0; !this.stop.signal.aborted; attempt++) {
      try {
        const token = await fetchToken(this.token);
        if (await this.talk(token)) attempt = 0;
      } catch (error) {
        if (error instanceof StreamError) return this.fail(error);
      }
      this.ready = false;
      if (this.stop.signal.aborted) return;
      this.reconnects++;
      await sleep(backoff(attempt, this.options), this.stop.signal);
    }
  }

  /** One connection, to its end; gives whether it brought anything. */
  talk(token) {
    return new Promise((resolve, reject) => {
      const socket = (this.socket = new this.Socket(this.url, [PROTOCOL]));
      let heard = false;
      let refused = null;
      let watch = null;
      const alive = () => {
        clearTimeout(watch);
        watch = setTimeout(() => socket.close(), GONE_MS);
      };
      socket.onopen = () => {
        alive();
        // Browsers can't set headers, and a URL ends up in logs: the first message says who it is.
        socket.send(JSON.stringify({ type: "auth", token }));
      };
      socket.onmessage = ({ data }) => {
        alive();
        const message = JSON.parse(data);
        if (message.type === "error" && !this.ready) refused = new StreamError(message);
        else if (message.type === "authenticated" && !this.ready) {
          heard = this.ready = true;
          for (const one of this.subscriptions.values()) {
            if (!one.parked) this.say(subscribeMessage(one));
          }
          for (const { message } of this.answers.values()) this.say(message);
        } else this.handle(message);
      };
      socket.onerror = () => {};
      socket.onclose = ({ code }) => {
        clearTimeout(watch);
        this.ready = false;
        // A token from a function may have expired on the way: ask for another one.
        const final = refused && (typeof this.token !== "function" || refused.code === "forbidden");
        if (final && (code === 4401 || code === 4403)) reject(refused);
        else resolve(heard);
      };
    });
  }

  handle(message) {
    const one = this.subscriptions.get(message.id);
    const answer = this.answers.get(message.id);
    switch (message.type) {
      case "ping":
        return this.say({ type: "pong" });
      case "auth.expiring":
        if (typeof this.token === "function") {
          fetchToken(this.token).then(
            (token) => this.say({ type: "auth", token }),
            () => {}, // the connection then ends at expiry, and the next one asks again
          );
        }
        return;
      case "subscribed":
        // Where `now` was: an interruption before the first event loses nothing, either.
        if (one) one.after = message.cursor;
        return;
      case "events":
        if (!one) return;
        for (const event of message.events) {
          one.push(event);
          one.after = event.cursor;
        }
        if (one.items.length > QUEUE) this.park(one);
        return;
      case "ended":
        this.subscriptions.delete(message.id);
        return one?.end();
      case "presence":
        if (one) one.count = message.count;
        return;
      case "published":
        this.answers.delete(message.id);
        return answer?.resolve(message.cursor);
      case "error":
        if (answer) {
          this.answers.delete(message.id);
          answer.reject(new StreamError(message));
        } else if (one) {
          this.subscriptions.delete(message.id);
          one.end(new StreamError(message));
        }
    }
  }

  fail(error) {
    this.failure = error;
    for (const one of this.subscriptions.values()) one.end(error);
    for (const { reject } of this.answers.values()) reject(error);
    this.answers.clear();
  }
}

function subscribeMessage(one) {
  const message = { type: "subscribe", id: one.id, topic: one.topic, filter: one.filter };
  return one.after === null ? message : { ...message, after: one.after };
}

/** Events of several topics over HTTP; each names its `topic`. Ends when all topics have ended. */
export async function* events(baseUrl, token, topics, options = {}) {
  const { types = [], signal, lastEventId = null } = options;
  const query = new URLSearchParams({ topics: topics.join(",") });
  if (types.length) query.set("types", types.join(","));
  let last = lastEventId;
  for (let attempt = 0; !signal?.aborted; attempt++) {
    let waitMs = backoff(attempt, options);
    const cut = new AbortController();
    const stop = () => cut.abort();
    signal?.addEventListener("abort", stop, { once: true });
    let watch = setTimeout(stop, GONE_MS);
    try {
      const headers = { authorization: `Bearer ${await fetchToken(token)}` };
      if (last !== null) headers["last-event-id"] = last;
      const url = `${baseUrl.replace(/\/+$/, "")}/v1/mesh/events?${query}`;
      const answer = await fetch(url, { headers, signal: cut.signal });
      if (answer.status === 204) return;
      if (answer.status === 429 || answer.status >= 500) {
        waitMs = Math.max(waitMs, 1000 * Number(answer.headers.get("retry-after") ?? 0));
      } else if (!answer.ok) {
        throw new StreamError(await answer.json());
      } else {
        for await (const frame of frames(answer.body)) {
          clearTimeout(watch);
          watch = setTimeout(stop, GONE_MS);
          if (frame === null) continue; // a heartbeat
          attempt = 0;
          if (frame.event === "error") break; // an expired token, say: ask for another
          if (frame.event !== "stream.open" && frame.event !== "gap") yield JSON.parse(frame.data);
          last = frame.id ?? last;
        }
      }
    } catch (error) {
      if (error instanceof StreamError) throw error;
    } finally {
      clearTimeout(watch);
      signal?.removeEventListener("abort", stop);
      cut.abort();
    }
    await sleep(waitMs, signal);
  }
}

/** Server-sent events of a body; `null` for a comment. */
async function* frames(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const frame = {};
        for (const line of lines) {
          const at = line.indexOf(": ");
          if (at > 0) frame[line.slice(0, at)] = line.slice(at + 2);
        }
        yield "data" in frame ? frame : null;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
