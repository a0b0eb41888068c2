/** Signs of life in the rooms: who is there, and who is typing. */

export class Signs {
  #chat;
  #get;
  #onChange;

  /** `get(name)` finds a room; `onChange(what, room)` is called after each change. */
  constructor(chat, get, onChange) {
    [this.#chat, this.#get, this.#onChange] = [chat, get, onChange];
    chat.on('who', (who) => this.#onWho(who));
    chat.on('presence', (presence) => this.#onPresence(presence));
    chat.on('typing', (typing) => this.#onTyping(typing));
  }

  /** Who is there now. On this connection `presence` tells the differences from then on. */
  async ask(room) {
    const who = await this.#chat.who(room.name);
    if (who) this.#onWho(who);
  }

  #onWho({ room: name, online, count }) {
    const room = this.#get(name);
    [room.online, room.onlineCount] = [online && new Set(online), count];
    this.#onChange('people', room);
  }

  #onPresence({ room: name, online, offline = [], count }) {
    const room = this.#get(name);
    room.onlineCount = count;
    // In a crowd the server only counts.
    if (online === undefined) room.online = undefined;
    for (const user of online ?? []) room.online?.add(user);
    for (const user of offline) room.online?.delete(user);
    this.#onChange('people', room);
  }

  #onTyping({ room: name, user_id, expires_ms }) {
    if (user_id === this.#chat.user) return;
    const room = this.#get(name);
    room.typing.set(user_id, performance.now() + expires_ms);
    this.#onChange('typing', room);
  }
}
