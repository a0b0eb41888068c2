/**
 * Messages of the user that are not in the log, in the rooms that they are meant for: those that
 * wait, and those that were not taken, which stay until the user has decided about them.
 */

import { newId } from './verbatim.js';

export class Outgoing {
  #chat;
  #get;
  #memory;
  #onChange;

  /** `get(name)` finds a room; `onChange(room)` is called after each change. */
  constructor(chat, get, memory, onChange) {
    [this.#chat, this.#get, this.#memory, this.#onChange] = [chat, get, memory, onChange];
    for (const { id, room, text, at, error } of memory.refused()) {
      get(room).pending.push({ id, text, at, error });
    }
    this.#recall();
    // On each connection the client also takes over what another page has left behind.
    chat.on('state', ({ state }) => {
      if (state === 'resuming') for (const room of this.#recall()) this.#onChange(room);
    });
    chat.on('sent', ({ id, room, seq }) => this.#onSent(id, room, seq));
    chat.on('refused', ({ id, room, error }) => this.#onRefused(get(room), id, error));
  }

  send(room, text, id = newId()) {
    const message = { id, text, at: Date.now() };
    room.pending.push(message);
    const sent = this.#chat.send(room.name, text, { id });
    const taken = this.#chat.waiting().find((waiting) => waiting.id === id);
    if (taken) message.isKept = taken.kept;
    // The end of one that was taken comes as `sent` or `refused`: another page may wait for it.
    sent.catch((error) => !taken && this.#onRefused(room, id, error));
    this.#onChange(room);
  }

  /** Once more, with the same id: should it have been stored after all, it is there once. */
  resend(room, id) {
    const failed = this.discard(room, id);
    if (failed) this.send(room, failed.text, id);
  }

  discard(room, id) {
    const message = room.pending.find((other) => other.id === id);
    this.#remove(room, id);
    return message;
  }

  /** The message is in the log. */
  onEvent(room, { client_id: id }) {
    if (room.pending.some((message) => message.id === id)) this.#remove(room, id);
  }

  /** The rooms for which something waits that was not known of. */
  #recall() {
    const rooms = new Set();
    for (const { id, room: name, message: text, at, kept: isKept } of this.#chat.waiting()) {
      const room = this.#get(name);
      if (room.pending.some((message) => message.id === id)) continue;
      room.pending.push({ id, text, at, isKept });
      rooms.add(room);
    }
    return rooms;
  }

  #onSent(id, name, seq) {
    const room = this.#get(name);
    // Of a room that is followed the event itself is about to come, and takes its place.
    if ((this.#chat.positions()[name] ?? seq) >= seq) this.#remove(room, id);
  }

  #onRefused(room, id, { code, message, field, limit }) {
    const refused = room.pending.find((other) => other.id === id);
    if (!refused) return;
    refused.error = { code, message, field, limit };
    refused.isKept = this.#memory.keepRefused({ ...refused, room: room.name });
    this.#onChange(room);
  }

  #remove(room, id) {
    room.pending = room.pending.filter((message) => message.id !== id);
    this.#memory.forgetRefused(id);
    this.#onChange(room);
  }
}
