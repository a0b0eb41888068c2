/**
 * Pages of history, and how they become the windows that rooms have on their logs.
 *
 * One page of a room is on its way at a time; who asks meanwhile waits for it and looks again. How
 * much is in a page is the server's affair: whether there is more it says itself.
 */

/** Events of the open room that are kept, and so are in the document. Others are read again. */
export const WINDOW_LEN_MAX = 600;
/** Events in a page, at most. */
export const PAGE_LEN = 100;

export class Pages {
  #chat;
  #onChange;

  /** `onChange(room)` is called when a page has come. */
  constructor(chat, onChange) {
    [this.#chat, this.#onChange] = [chat, onChange];
  }

  /** What was said before the window. */
  async older(room) {
    if (!room.hasOlder) return;
    const before = room.events[0]?.seq;
    await this.#load(room, { before }, ({ events, more }) => {
      if (room.events[0]?.seq !== before) return;
      room.events.unshift(...events);
      room.hasOlder = more;
      room.events.length = Math.min(room.events.length, WINDOW_LEN_MAX);
    });
  }

  /** What was said after the window, until it is live again. */
  async newer(room) {
    if (room.isLive) return;
    const after = room.last;
    await this.#load(room, { after }, ({ events }) => {
      if (room.last !== after) return;
      room.events.push(...events);
      room.shorten(WINDOW_LEN_MAX);
    });
  }

  /** The end of the room, wherever the window is. */
  async latest(room) {
    await whenIdle(room);
    if (room.isLive && room.events.length > 0) return;
    await this.#load(room, {}, ({ events, more }) => room.replace(events, more, WINDOW_LEN_MAX));
  }

  /** What was said behind that seq: there the window begins. */
  async from(room, after) {
    await whenIdle(room);
    await this.#load(room, { after }, ({ events }) => {
      if (events.length > 0) room.replace(events, after > 0, WINDOW_LEN_MAX);
    });
  }

  #load(room, where, take) {
    room.loading ??= this.#ask(room, where, take).finally(() => { room.loading = undefined; });
    return room.loading;
  }

  async #ask(room, where, take) {
    take(await this.#chat.history(room.name, { ...where, limit: PAGE_LEN }));
    room.lastSeq = Math.max(room.lastSeq, room.last);
    this.#onChange(room);
  }
}

async function whenIdle(room) {
  // Whoever asked for that page is told if it could not be had.
  while (room.loading) await room.loading.catch(() => {});
}
