/**
 * Messages that are not known to be stored: by room, in order, and in a storage if there is one.
 *
 * It sends the oldest message of each room whenever the line is open, and again with the same id
 * until the server has said what became of it. With a storage (as `localStorage`) what waits
 * outlives the page.
 */

import { ChatError, RETRY_CODES, closed, failure } from './failure.js';
import { isId } from './id.js';

/** Messages that wait. More are refused with the code `full`. */
const LEN_MAX = 1000;
/** The server answers a message long before. If it does not, the line is looked at. */
const DOUBT_PAUSE_MS = 5000;

export class Outbox {
  #storage;
  #prefix;
  #line;
  #emit;
  #user;
  #entries = new Map();
  #byRoom = new Map();
  #order = 0;
  #doubtTimer;
  /** What the server takes, told by its `hello`. */
  limits;

  constructor({ storage, user, url, line, emit }) {
    [this.#storage, this.#user, this.#line, this.#emit] = [storage, user, line, emit];
    // Quoted, so that no name can be the beginning of another's key.
    this.#prefix = `verbatim:${JSON.stringify([user, url])}:`;
    this.recall();
  }

  list() {
    return [...this.#entries.values()].sort((a, b) => a.order - b.order)
      .map(({ id, room, message, at, kept }) => ({ id, room, message, at, kept }));
  }

  /**
   * Takes over what waits in the storage: of an earlier page, or of another that was closed with
   * something unsent. If the other is there still, both send it, and the id makes it one message.
   */
  recall() {
    const news = this.#keys().filter((key) => !this.#entries.has(key.slice(this.#prefix.length)));
    const entries = news.map((key) => this.#load(key)).filter(Boolean);
    for (const entry of entries.sort((a, b) => a.order - b.order)) this.#put(entry);
  }

  /** Whether the message of that id waits, and is one to that room (if a room is given). */
  has(id, room) {
    const entry = this.#entries.get(id);
    return entry !== undefined && (room === undefined || entry.room === room);
  }

  send(id, room, message, promise) {
    const waiting = this.#entries.get(id);
    if (!isId(id)) {
      promise.reject(wrongId('must be 1 to 64 characters of printable ASCII'));
    } else if (waiting && (waiting.room !== room || waiting.message !== message)) {
      promise.reject(wrongId('is that of another message that waits'));
    } else if (waiting) {
      waiting.promises.push(promise);
    } else if (this.#entries.size >= LEN_MAX) {
      promise.reject(failure('full', 'too many messages wait to be sent'));
    } else {
      const at = Date.now();
      const order = Math.max(this.#order + 1, at);
      const kept = this.#save(id, { room, message, at, order });
      this.#put({ id, room, message, at, order, kept }, promise);
      this.#flush(room);
    }
  }

  /** The line is open: everything that waits may go. */
  flush() {
    for (const room of this.#byRoom.keys()) this.#flush(room);
  }

  /** The line broke: what was under way is sent again, with the same id. */
  rewind() {
    for (const entry of this.#entries.values()) entry.isSent = false;
    this.#doubt();
  }

  /** Whether it was a message that waited. Its event and its `ack` say the same. */
  onStored(id, { seq, duplicate = false }) {
    const entry = this.#remove(id);
    if (!entry) return false;
    for (const { resolve } of entry.promises) resolve(seq);
    this.#emit('sent', { id, room: entry.room, seq, duplicate });
    this.#doubt();
    this.#flush(entry.room);
    return true;
  }

  /** Whether the error was about a message that waited. */
  onError(frame) {
    const entry = this.#entries.get(frame.id);
    if (!entry) return false;
    if (RETRY_CODES.has(frame.code)) this.#retry(entry, frame.retry_after_ms);
    else this.#refuse(entry, frame);
    return true;
  }

  /** Nobody waits any more. The storage keeps what it has. */
  close() {
    for (const { promises } of this.#entries.values()) {
      for (const { reject } of promises) reject(closed());
    }
    this.#entries.clear();
    this.#byRoom.clear();
    this.#doubt();
  }

  /** One message of a room at a time, so that a refusal changes no order. */
  #flush(room) {
    const entry = this.#byRoom.get(room)?.[0];
    if (!entry || entry.isSent || !this.#line.isOpen) return;
    const { id, message } = entry;
    const frame = { user_id: this.#user, type: 'message', room, message, id };
    const { frame_bytes, message_bytes: limit } = this.limits;
    // The server would end the connection for such a frame, and for the next one, too.
    if (new TextEncoder().encode(JSON.stringify(frame)).length > frame_bytes) {
      this.#refuse(entry, { code: 'too_large', limit, error: `the limit is ${limit} bytes` });
      return;
    }
    entry.isSent = true;
    this.#line.write(frame);
    this.#doubtTimer ?? this.#doubt();
  }

  /**
   * A network that is gone says nothing. While messages are on their way and none is answered, the
   * line is tested from time to time, and ends if it is dead.
   */
  #doubt() {
    clearTimeout(this.#doubtTimer);
    this.#doubtTimer = undefined;
    const isWaiting = [...this.#byRoom.values()].some(([first]) => first.isSent);
    if (!isWaiting) return;
    this.#doubtTimer = setTimeout(() => {
      this.#line.wake();
      this.#doubt();
    }, DOUBT_PAUSE_MS);
  }

  /** It may even have been stored. The id makes it one message in any case. */
  #retry(entry, retry_after_ms) {
    const delay = retry_after_ms ?? this.#line.backoff(entry.attempts);
    entry.attempts += 1;
    this.#line.later(delay, () => {
      entry.isSent = false;
      this.#flush(entry.room);
    });
  }

  #refuse({ id, room, message, promises }, frame) {
    this.#remove(id);
    const error = new ChatError({ room, ...frame });
    for (const { reject } of promises) reject(error);
    this.#emit('refused', { id, room, message, error });
    this.#flush(room);
  }

  #put(message, promise) {
    const entry = { ...message, isSent: false, attempts: 0, promises: promise ? [promise] : [] };
    this.#order = Math.max(this.#order, entry.order);
    this.#entries.set(entry.id, entry);
    const queue = this.#byRoom.get(entry.room) ?? [];
    this.#byRoom.set(entry.room, queue);
    queue.push(entry);
    queue.sort((a, b) => a.order - b.order);
  }

  #remove(id) {
    const entry = this.#entries.get(id);
    if (!entry) return undefined;
    this.#entries.delete(id);
    const queue = this.#byRoom.get(entry.room);
    // It is the first one, mostly: only that one is sent.
    queue.splice(queue.indexOf(entry), 1);
    if (queue.length === 0) this.#byRoom.delete(entry.room);
    this.#forget(id);
    return entry;
  }

  // The storage. It may be full, or taken away at any time: then there is none.

  #keys() {
    try {
      const storage = this.#storage;
      const keys = Array.from({ length: storage?.length ?? 0 }, (_, place) => storage.key(place));
      return keys.filter((key) => key?.startsWith(this.#prefix));
    } catch {
      return [];
    }
  }

  /** A key for each message, so that pages which share a storage do not undo each other's. */
  #save(id, message) {
    try {
      this.#storage?.setItem(this.#prefix + id, JSON.stringify(message));
      return Boolean(this.#storage);
    } catch {
      // The message goes out all the same, if this page lives so long.
      return false;
    }
  }

  #forget(id) {
    try {
      this.#storage?.removeItem(this.#prefix + id);
    } catch {
      // The next page sends it again, with the same id.
    }
  }

  /** Nothing, if somebody else has written there: it would be in the way of what is behind it. */
  #load(key) {
    try {
      const id = key.slice(this.#prefix.length);
      const { room, message, at, order } = JSON.parse(this.#storage.getItem(key));
      const isWhole = typeof room === 'string' && typeof message === 'string'
        && Number.isFinite(at) && Number.isFinite(order);
      return isId(id) && isWhole ? { id, room, message, at, order, kept: true } : undefined;
    } catch {
      return undefined;
    }
  }
}

/** Said at once: the server's refusal could not name a message whose id it does not take. */
function wrongId(why) {
  return new ChatError({ code: 'bad_request', status: 400, field: 'id', error: `id ${why}` });
}
