/** The list of rooms: the user's own with what is unread, the others, and the search in both. */

import { addressOf } from './address.js';
import { fill, find, make, say, soon } from './dom.js';
import { badge, count, number } from './words.js';

/** Rooms of either list in the document. The search finds the rest. */
const SHOWN_LEN_MAX = 200;
const EMPTINESS = 'There is no room yet. Type a name above to create the first.';
/** After the last key until the server is asked for rooms that are not in the list. */
const SEARCH_PAUSE_MS = 250;

export class Sidebar {
  #rooms;
  #open;
  #create;
  #input = find('search');
  #list = find('rooms');
  #searchTimer;
  #own = section('list-own', 'Your rooms');
  #others = section('list-others', 'Rooms');
  #emptiness = make('p', { class: 'hint' }, EMPTINESS);
  /** The elements of each room that was ever shown, by its name. */
  #items = new Map();
  /** The room that the button makes. */
  #wish = '';
  #wishName = make('bdi');
  #creator = make('button', {
    type: 'button', class: 'creator', 'data-room': '', onclick: () => this.#create(this.#wish),
  }, 'Create ', this.#wishName);
  draw = soon(() => this.#draw());

  /** `open(name)` shows a room, `create(name)` makes one. */
  constructor(rooms, { open, create }) {
    [this.#rooms, this.#open, this.#create] = [rooms, open, create];
    this.#input.value = '';
    this.#input.oninput = () => this.#onInput();
    this.#input.onkeydown = (event) => this.#onKey(event);
    find('search-form').onsubmit = (event) => {
      event.preventDefault();
      this.#go();
    };
    this.#list.onkeydown = (event) => this.#onKey(event);
    this.draw();
  }

  focus() {
    this.#input.focus();
    this.#input.select();
  }

  clear() {
    this.#input.value = '';
    this.draw();
  }

  /** The room after (1) or before (-1) the open one among the user's own, in a circle. */
  neighbour(step) {
    const { own } = this.#rooms.lists();
    const place = own.indexOf(this.#rooms.active);
    return own.at((place + step + (place < 0 && step < 0 ? 1 : 0)) % own.length)?.name;
  }

  get #text() {
    return this.#input.value.trim().normalize('NFC');
  }

  #onInput() {
    this.draw();
    clearTimeout(this.#searchTimer);
    if (this.#text === '') return;
    this.#searchTimer = setTimeout(() => {
      // What cannot be found now is not found; the connection's state is shown elsewhere.
      this.#rooms.search(this.#text).catch(() => {});
    }, SEARCH_PAUSE_MS);
  }

  /** To the room of that very name, or to the first that is found, or to make it. */
  #go() {
    const text = this.#text;
    if (text === '') return;
    const items = [...this.#list.querySelectorAll('a, button')];
    (items.find(({ dataset }) => dataset.room === text) ?? items[0])?.click();
  }

  /** Up and down go through the field and the rooms; Esc empties the field. */
  #onKey(event) {
    const items = [...this.#list.querySelectorAll('a, button')];
    const place = items.indexOf(document.activeElement);
    if (event.key === 'ArrowDown') items[Math.min(place + 1, items.length - 1)]?.focus();
    else if (event.key === 'ArrowUp') (items[place - 1] ?? this.#input).focus();
    else if (event.key === 'Home' && place >= 0) items[0].focus();
    else if (event.key === 'End' && place >= 0) items.at(-1).focus();
    else if (event.key === 'Escape' && this.#text !== '') this.clear();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #draw() {
    const text = this.#text;
    const wanted = text.toLocaleLowerCase();
    const fits = (room) => room.name.toLocaleLowerCase().includes(wanted);
    const { own, others } = this.#rooms.lists();
    const isThere = [...own, ...others].some((room) => room.name === text);
    const isEmpty = own.length + others.length === 0 && text === '';
    const focused = document.activeElement?.dataset?.room;
    this.#wish = text;
    say(this.#wishName, `“${text}”`);
    say(this.#others.title, own.length > 0 ? 'Other rooms' : 'Rooms');
    fill(this.#list, [
      ...this.#section(this.#own, own.filter(fits)),
      ...this.#section(this.#others, others.filter(fits)),
      ...(text === '' || isThere ? [] : [this.#creator]),
      ...(isEmpty ? [this.#emptiness] : []),
    ]);
    this.#rove(focused);
  }

  /** One stop for the Tab key, whatever the number of rooms: the arrows do the rest. */
  #rove(focused) {
    const items = [...this.#list.querySelectorAll('a, button')];
    const stop = items.find((item) => item.dataset.room === focused)
      ?? items.find((item) => item.ariaCurrent) ?? items[0];
    for (const item of items) item.tabIndex = item === stop ? 0 : -1;
    if (focused !== undefined && stop !== document.activeElement) stop?.focus();
  }

  #section({ title, list, rest }, rooms) {
    if (rooms.length === 0) return [];
    const shown = rooms.slice(0, SHOWN_LEN_MAX);
    fill(list, shown.map((room) => this.#item(room)));
    const more = rooms.length - shown.length;
    say(rest, `and ${number(more)} more: search`);
    return more > 0 ? [title, list, rest] : [title, list];
  }

  #item(room) {
    const { name, unread, members, lastSeq, isJoined } = room;
    const item = this.#items.get(name) ?? this.#make(name);
    const { link, figure, words } = item;
    const hasNews = Boolean(isJoined) && unread > 0;
    const isActive = room === this.#rooms.active;
    link.classList.toggle('news', hasNews);
    figure.className = hasNews ? 'badge' : '';
    if (isActive) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
    const entries = count(lastSeq, 'entry', 'entries');
    link.title = lastSeq > 0 ? `${count(members, 'member')}, ${entries}` : '';
    say(figure, hasNews ? badge(unread) : '');
    say(words, hasNews ? `, ${unread} unread` : '');
    return item.row;
  }

  #make(name) {
    const sign = make('span', { class: 'hash', 'aria-hidden': 'true' }, '#');
    const figure = make('span', { 'aria-hidden': 'true' });
    const words = make('span', { class: 'unseen' });
    const link = make('a', {
      href: addressOf(name),
      class: 'room-item',
      'data-room': name,
      onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.#open(name);
      },
    }, sign, make('bdi', {}, name), figure, words);
    const item = { row: make('li', {}, link), link, figure, words };
    this.#items.set(name, item);
    return item;
  }
}

function section(id, text) {
  return {
    title: make('h2', { id }, text),
    list: make('ul', { role: 'list', 'aria-labelledby': id }),
    rest: make('p', { class: 'hint' }),
  };
}
