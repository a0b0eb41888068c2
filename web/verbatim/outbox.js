/**
 * Messages that are not known to be stored: by room, in order, and in a storage if there is one.
 *
 * It sends nothing. With a storage (as `localStorage`) what waits outlives the page.
 */

export class Outbox {
  #storage;
  #prefix;
  #entries = new Map();
  #byRoom = new Map();
  #order = 0;

  /** A key for each message, so that pages which share a storage do not undo each other's. */
  constructor(storage, prefix) {
    [this.#storage, this.#prefix] = [storage, prefix];
    const keys = Array.from({ length: storage?.length ?? 0 }, (_, place) => storage.key(place));
    const kept = keys.filter((key) => key.startsWith(prefix)).map((key) => this.#load(key));
    for (const entry of kept.sort((a, b) => a.order - b.order)) this.#put(entry);
  }

  get size() {
    return this.#entries.size;
  }

  get(id) {
    return this.#entries.get(id);
  }

  list() {
    return [...this.#entries.values()]
      .map(({ id, room, message, at }) => ({ id, room, message, at }));
  }

  /** Those with a message that waits. */
  rooms() {
    return [...this.#byRoom.keys()];
  }

  first(room) {
    return this.#byRoom.get(room)?.[0];
  }

  add({ id, room, message, at }, promise) {
    const order = Math.max(this.#order + 1, at);
    this.#put({ id, room, message, at, order }, promise);
    try {
      this.#storage?.setItem(this.#prefix + id, JSON.stringify({ room, message, at, order }));
    } catch {
      // The storage is full. The message goes out all the same, if this page lives so long.
    }
  }

  remove(id) {
    const entry = this.#entries.get(id);
    if (!entry) return undefined;
    this.#entries.delete(id);
    const queue = this.#byRoom.get(entry.room);
    // It is the first: only that one is ever sent.
    queue.splice(queue.indexOf(entry), 1);
    if (queue.length === 0) this.#byRoom.delete(entry.room);
    this.#storage?.removeItem(this.#prefix + id);
    return entry;
  }

  /** What was under way when the connection ended is sent again, with the same id. */
  rewind() {
    for (const entry of this.#entries.values()) entry.isSent = false;
  }

  /** Nobody waits any more. The storage keeps what it has. */
  end(error) {
    for (const { promises } of this.#entries.values()) {
      for (const { reject } of promises) reject(error);
    }
    this.#entries.clear();
    this.#byRoom.clear();
  }

  #load(key) {
    return { id: key.slice(this.#prefix.length), ...JSON.parse(this.#storage.getItem(key)) };
  }

  #put(message, promise) {
    const entry = { ...message, isSent: false, attempts: 0, promises: promise ? [promise] : [] };
    this.#order = entry.order;
    this.#entries.set(entry.id, entry);
    const queue = this.#byRoom.get(entry.room) ?? [];
    this.#byRoom.set(entry.room, queue);
    queue.push(entry);
  }
}
