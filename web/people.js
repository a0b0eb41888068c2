/**
 * Who is in the open room, and, if the server tells, who of them is there now: beside the
 * conversation, or over it where there is no room.
 */

import { find, make } from './dom.js';
import { avatar } from './row.js';
import { read, write } from './storage.js';
import { collate, count, number } from './words.js';

/** People in the document. A room of more says how many more there are. */
const SHOWN_LEN_MAX = 300;
const WANTED_KEY = 'verbatim-page:people';
/** From here on there is room beside the conversation. (The same in frame.css.) */
const WIDE = matchMedia('(min-width: 1100px)');

export class People {
  #chat;
  #panel = find('people');
  #toggle = find('people-toggle');
  #list = find('people-list');
  #room = null;
  #isWanted = false;
  /** Room and number of members that the list was asked for. */
  #shown = null;
  #members = [];
  #hasMore = false;

  constructor(chat) {
    this.#chat = chat;
    this.#toggle.onclick = () => (this.#isWanted ? this.close() : this.#open());
    find('people-close').onclick = find('people-backdrop').onclick = () => this.close();
    WIDE.onchange = () => this.begin();
  }

  /** Whether they lie over the conversation, and are to be closed before it goes on. */
  get isOver() {
    return !this.#panel.hidden && !WIDE.matches;
  }

  /** In each room they are there at first if there is space, and if they are wanted. */
  begin() {
    this.#isWanted = WIDE.matches && read(WANTED_KEY) !== 'closed';
    this.#draw();
  }

  close() {
    const wasOver = this.isOver;
    this.#want(false);
    if (wasOver || this.#panel.contains(document.activeElement)) this.#toggle.focus();
  }

  /** Shows the people of that room, if they are wanted; `null`: of none. */
  show(room) {
    if (room !== this.#room) [this.#members, this.#hasMore] = [[], false];
    this.#room = room;
    this.#draw();
  }

  async refresh() {
    const room = this.#room;
    if (this.#panel.hidden || !room) return;
    try {
      const { members, more } = await this.#chat.members(room.name);
      if (room !== this.#room) return;
      [this.#members, this.#hasMore] = [members, more];
      this.draw();
    } catch {
      // They are asked for again with the next change; the connection's state is shown elsewhere.
    }
  }

  /** Those who are there are all named by the server, also beyond the page of members. */
  draw() {
    if (this.#panel.hidden || !this.#room) return;
    const { online, onlineCount, members: total } = this.#room;
    const roles = new Map(this.#members.map(({ user_id, role }) => [user_id, role]));
    const all = [...new Set([...online ?? [], ...roles.keys()])].sort(collate);
    const here = all.filter((user) => online?.has(user)).slice(0, SHOWN_LEN_MAX);
    const away = all.filter((user) => !online?.has(user)).slice(0, SHOWN_LEN_MAX - here.length);
    const rest = Math.max(0, total - here.length - away.length);
    const isShort = this.#hasMore || all.length > here.length + away.length;
    this.#list.replaceChildren(
      ...group(`Online · ${number(onlineCount ?? here.length)}`, here, roles, true),
      ...group(online ? 'Away' : 'Members', away, roles),
      ...(isShort && rest > 0 ? [make('p', { class: 'hint' }, `and ${count(rest, 'other')}`)] : []),
    );
  }

  #open() {
    this.#want(true);
    if (this.isOver) find('people-close').focus();
  }

  #want(isWanted) {
    this.#isWanted = isWanted;
    // Where they lie over the conversation, closing them is no word about another screen.
    if (WIDE.matches) write(WANTED_KEY, isWanted ? 'open' : 'closed');
    this.#draw();
  }

  #draw() {
    const room = this.#isWanted ? this.#room : null;
    this.#panel.hidden = room === null;
    this.#toggle.setAttribute('aria-expanded', String(this.#isWanted));
    find('people-backdrop').hidden = !this.isOver;
    for (const rest of document.querySelectorAll('.sidebar, .room')) rest.inert = this.isOver;
    const key = room && `${room.name} ${room.members}`;
    if (key === this.#shown) return;
    this.#shown = key;
    this.draw();
    this.refresh();
  }
}

function group(title, users, roles, isHere = false) {
  if (users.length === 0) return [];
  const items = users.map((user) => make('li', { class: isHere ? 'here' : '' },
    avatar(user),
    make('bdi', {}, user),
    roles.get(user) === 'owner' ? make('span', { class: 'role' }, 'owner') : undefined));
  return [make('h3', {}, title), make('ul', { role: 'list' }, ...items)];
}
