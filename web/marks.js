/** How far the user has read: told to the server and kept in the browser, both once in a while. */

/** So long marks are gathered: somebody who watches a busy room reads many a second. */
const PAUSE_MS = 1000;

export class Marks {
  #chat;
  #save;
  #news = new Map();
  #timer;

  /** `save()` keeps the marks of all rooms. */
  constructor(chat, save) {
    [this.#chat, this.#save] = [chat, save];
  }

  /** The user has read the room up to its end. */
  set(room) {
    this.#news.set(room.name, room.readSeq);
    this.touch();
  }

  /** Something that is kept has changed. */
  touch() {
    this.#timer ??= setTimeout(() => this.flush(), PAUSE_MS);
  }

  /** Tells and keeps at once what is new. */
  flush() {
    if (this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const [name, seq] of this.#news) this.#chat.read(name, seq);
    this.#news.clear();
    this.#save();
  }
}
