/**
 * What the page remembers of a user from one visit to the next: how far they have read in each of
 * their rooms, and messages that were refused. (What waits to be sent the client keeps itself.)
 */

import { keysOf, read, remove, write } from './storage.js';

export class Memory {
  #marksKey;
  #refusedPrefix;

  constructor(user) {
    this.#marksKey = `verbatim-page:rooms:${user}`;
    // Quoted, so that no name can be the beginning of another's key.
    this.#refusedPrefix = `verbatim-page:refused:${JSON.stringify(user)}:`;
  }

  /** Pairs of a room's name and the seq up to which it was read. */
  marks() {
    const marks = Object.entries(read(this.#marksKey) ?? {});
    return marks.filter(([, seq]) => Number.isSafeInteger(seq));
  }

  keepMarks(marks) {
    write(this.#marksKey, Object.fromEntries(marks));
  }

  /** `{ id, room, text, at, error }`, oldest first. */
  refused() {
    const all = keysOf(this.#refusedPrefix).map(read).filter((message) => message?.error);
    return all.sort((a, b) => a.at - b.at);
  }

  /** Whether it is kept: there may be no room. A key for each, so that pages undo no other's. */
  keepRefused(message) {
    return write(this.#refusedPrefix + message.id, message);
  }

  forgetRefused(id) {
    remove(this.#refusedPrefix + id);
  }
}
