/** Who is in the open room, and, if the server tells, who of them is there now. */

import { find, make } from './dom.js';
import { avatar } from './row.js';
import { collate, count } from './words.js';

/** People in the document. A room of more says how many more there are. */
const SHOWN_LEN_MAX = 300;

export class People {
  #chat;
  #panel = find('people');
  #list = find('people-list');
  #room = null;
  /** Room and number of members that the list was asked for. */
  #shown = null;
  #members = [];
  #hasMore = false;

  constructor(chat) {
    this.#chat = chat;
  }

  get isOpen() {
    return !this.#panel.hidden;
  }

  /** Shows the people of that room; `null`: none. */
  show(room) {
    const key = room && `${room.name} ${room.members}`;
    if (key === this.#shown) return;
    if (room !== this.#room) [this.#members, this.#hasMore] = [[], false];
    [this.#room, this.#shown] = [room, key];
    this.#panel.hidden = room === null;
    this.draw();
    this.refresh();
  }

  async refresh() {
    const room = this.#room;
    if (!this.isOpen || !room) return;
    try {
      const { members, more } = await this.#chat.members(room.name);
      if (room !== this.#room) return;
      [this.#members, this.#hasMore] = [members, more];
      this.draw();
    } catch {
      // They are asked for again with the next change; the connection's state is shown elsewhere.
    }
  }

  draw() {
    if (!this.isOpen || !this.#room) return;
    const { online, members: total } = this.#room;
    const isHere = ({ user_id }) => online?.has(user_id) ?? false;
    const all = [...this.#members].sort((a, b) => isHere(b) - isHere(a)
      || collate(a.user_id, b.user_id));
    const shown = all.slice(0, SHOWN_LEN_MAX);
    const here = shown.filter(isHere);
    const rest = this.#hasMore || all.length > shown.length ? total - shown.length : 0;
    this.#list.replaceChildren(
      ...(online ? group(`Online · ${here.length}`, here, true) : []),
      ...group(online ? 'Away' : 'Members', shown.filter((member) => !here.includes(member))),
      ...(rest > 0 ? [make('p', { class: 'hint' }, `and ${count(rest, 'other')}`)] : []),
    );
  }
}

function group(title, members, isHere = false) {
  if (members.length === 0) return [];
  const items = members.map(({ user_id, role }) => make('li', { class: isHere ? 'here' : '' },
    avatar(user_id),
    make('bdi', {}, user_id),
    role === 'owner' ? make('span', { class: 'role' }, 'owner') : undefined));
  return [make('h3', {}, title), make('ul', { role: 'list' }, ...items)];
}
