// The nodes that the tests use, and a door in front of them that can be shut and led elsewhere.
import assert from 'node:assert/strict';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { Transform } from 'node:stream';
import test, { after } from 'node:test';
import WebSocket from 'ws';
import { connect } from '../../web/verbatim.js';

/** How long a test waits for what must happen. Only one that fails waits that long. */
export const PATIENCE_MS = 15_000;

/** The longest that one test may take. */
const TEST_MS = 60_000;

export function check(name, run) {
  test(name, { timeout: TEST_MS }, run);
}

const control = net.connect(Number(process.env.VERBATIM_CONTROL), '127.0.0.1');
const answers = createInterface(control)[Symbol.asyncIterator]();
/** Whatever was opened in the course of the tests. */
const open = new Set([() => control.destroy()]);

after(() => {
  for (const close of open) close();
});

async function ask(line) {
  control.write(`${line}\n`);
  return (await answers.next()).value;
}

/** Addresses of the nodes that run, by name. */
export async function nodes() {
  const pairs = (await ask('nodes')).split(',').map((pair) => pair.split('='));
  return Object.fromEntries(pairs);
}

export const kill = (id) => order(`kill ${id}`);
export const stop = (id) => order(`stop ${id}`);
export const start = (id) => order(`start ${id}`);

async function order(line) {
  assert.equal(await ask(line), 'done');
}

/** One address that leads to a node, as a load balancer's does, and to another when told so. */
export class Door {
  #server = net.createServer((client) => this.#enter(client));
  #pairs = new Set();
  #swallowed = new Set();
  #target;
  #isShut = false;
  #delay_ms;

  /** `delay_ms`: so long everything is on its way. */
  static async to(address, { delay_ms = 0 } = {}) {
    const door = new Door();
    door.#delay_ms = delay_ms;
    door.leadTo(address);
    await new Promise((resolve) => { door.#server.listen(0, '127.0.0.1', resolve); });
    door.address = `127.0.0.1:${door.#server.address().port}`;
    open.add(() => door.close());
    return door;
  }

  /** For those who come from now on. */
  leadTo(address) {
    this.#target = address;
  }

  /** Everybody is thrown out, and nobody gets in. */
  shut() {
    this.#isShut = true;
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  unlock() {
    this.#isShut = false;
  }

  /** Nothing comes through any more, and nobody is told, not even of the end. */
  swallow() {
    for (const pair of this.#pairs) {
      this.#swallowed.add(pair);
      for (const socket of pair) socket.unpipe().resume();
    }
  }

  close() {
    this.shut();
    this.#server.close();
  }

  #enter(client) {
    if (this.#isShut) return client.destroy();
    const [host, port] = this.#target.split(':');
    const node = net.connect(Number(port), host);
    const pair = [client, node];
    this.#pairs.add(pair);
    for (const [one, other] of [pair, [node, client]]) {
      one.setNoDelay(true);
      // The end of one side is passed on below, or not at all.
      one.pipe(delay(this.#delay_ms)).pipe(other, { end: false });
      one.on('error', () => {});
      one.on('close', () => {
        if (one === node && this.#swallowed.has(pair)) return;
        other.destroy();
        this.#pairs.delete(pair);
      });
    }
    return undefined;
  }
}

/** What comes goes on so much later, in its order. */
function delay(delay_ms) {
  return new Transform({
    transform(chunk, _, done) {
      setTimeout(() => this.push(chunk), delay_ms);
      done();
    },
  });
}

/** A client that is closed at the end at the latest, and keeps the events that it was told. */
export function client(address, user, options = {}) {
  const url = `ws://${address}/ws`;
  const chat = connect(url, { user, WebSocket, backoff_ms: [50, 200], ...options });
  chat.events = [];
  chat.on('event', (event) => chat.events.push(event));
  open.add(() => chat.close());
  return chat;
}

/** The next event of that type that fits. */
export function next(chat, type, fits = () => true) {
  return within(`${type} of ${chat.user}`, new Promise((resolve) => {
    const stop = chat.on(type, (event) => {
      if (!fits(event)) return;
      stop();
      resolve(event);
    });
  }));
}

/** Until the chat was told as much of the room. */
export async function told(chat, room, seq) {
  const has = () => (chat.positions()[room] ?? 0) >= seq;
  if (!has()) await next(chat, 'event', has);
}

export async function isOpen(chat) {
  if (chat.state !== 'open') await next(chat, 'state', ({ state }) => state === 'open');
}

/** The promise's value, or a failure that says what was waited for. */
export async function within(what, promise, limit_ms = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited for ${what} in vain`)), limit_ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Makes a room of so many messages, as fast as the node takes them. */
export async function fill(address, room, count) {
  const socket = new WebSocket(`ws://${address}/ws`);
  await new Promise((resolve) => { socket.onopen = resolve; });
  const say = (command) => socket.send(JSON.stringify({ user_id: 'filler', room, ...command }));
  say({ type: 'create' });
  for (let number = 0; number < count; number += 1) {
    say({ type: 'message', message: `line ${number}` });
  }
  say({ type: 'history', id: 'end' });
  await within('a full room', new Promise((resolve) => {
    socket.onmessage = ({ data }) => JSON.parse(data).id === 'end' && resolve();
  }));
  socket.close();
}

/** A WebSocket whose traffic is tampered with: `out` and `into` return the frames that pass. */
export function tampered({ out = (frame) => [frame], into = (frame) => [frame] }) {
  return class extends WebSocket {
    send(text) {
      for (const frame of out(JSON.parse(text), this)) super.send(JSON.stringify(frame));
    }

    set onmessage(listener) {
      super.onmessage = ({ data }) => {
        for (const frame of into(JSON.parse(data))) listener({ data: JSON.stringify(frame) });
      };
    }
  };
}

/** As much of a browser's storage as the client uses. */
export function storage() {
  const kept = new Map();
  return {
    get length() { return kept.size; },
    key: (place) => [...kept.keys()][place] ?? null,
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  };
}

let rooms = 0;

/** A name that no other test has. */
export function roomName(what = 'room') {
  rooms += 1;
  return `${what}-${rooms}`;
}

/** Seqs without a hole and without a repetition, from the first one on. */
export function assertWhole(events) {
  const seqs = events.map((event) => event.seq);
  assert.deepEqual(seqs, seqs.map((_, place) => seqs[0] + place));
}

/** The texts of the messages among events. */
export function texts(events) {
  return events.filter(({ type }) => type === 'message').map(({ message }) => message);
}

/** The whole room as the log has it, by a client of its own. */
export async function logOf(address, room, user) {
  const chat = client(address, user);
  const events = [];
  for (let more = true; more;) {
    const page = await chat.history(room, { after: events.at(-1)?.seq ?? 0, limit: 200 });
    events.push(...page.events);
    more = page.more;
  }
  chat.close();
  return events;
}
