/**
 * The page: puts the parts together, and says which room is open and what the keys do.
 *
 * The address after the # is the open room, so a reload, a link and the browser's own back button
 * do what one expects.
 */

import { addressOf, roomAt } from './address.js';
import { Composer } from './composer.js';
import { find, say, soon } from './dom.js';
import { Head } from './head.js';
import { Memory } from './memory.js';
import { People } from './people.js';
import { Rooms } from './rooms.js';
import { HUES } from './row.js';
import { Sidebar } from './sidebar.js';
import { Status } from './status.js';
import { Timeline } from './timeline.js';
import { toast } from './toast.js';
import { rename, start } from './welcome.js';
import { errorText, hue, initials } from './words.js';

/** How often the list of rooms is asked for while somebody looks at it. */
const REFRESH_PAUSE_MS = 30_000;

class Page {
  #chat;
  #rooms;
  #sidebar;
  #head;
  #timeline;
  #composer;
  #people;
  #refreshTimer;
  /** The room that is asked about in the dialog, whatever is open by the time of the answer. */
  #leaving;
  #drawFrame = soon(() => this.#frame());

  constructor(chat) {
    this.#chat = chat;
    const onChange = (what, room) => this.#onChange(what, room);
    this.#rooms = new Rooms(chat, new Memory(chat.user), onChange);
    this.#sidebar = new Sidebar(this.#rooms, {
      open: (name) => this.open(name),
      create: (name) => this.#create(name),
    });
    this.#head = new Head(chat, this.#rooms);
    this.#timeline = new Timeline(this.#rooms, chat.user);
    this.#people = new People(chat);
    this.#composer = new Composer({
      onSend: (text) => this.#send(text),
      onTyping: () => chat.typing(this.#rooms.active.name),
      onScroll: (pages) => this.#timeline.scrollBy(pages),
    });
    new Status(chat).show({ state: 'open' });
    chat.on('state', (state) => this.#onState(state));
    this.#listen();
    say(find('me-name'), chat.user);
    say(find('me-avatar'), initials(chat.user));
    find('me-avatar').className = `avatar hue-${hue(chat.user, HUES)}`;
    this.#refresh();
    this.#follow();
  }

  // The connection.

  #onState({ state }) {
    this.#drawFrame();
    this.#timeline.draw();
    if (state === 'open') this.#refresh();
  }

  #refresh() {
    clearTimeout(this.#refreshTimer);
    this.#refreshTimer = setTimeout(() => this.#refresh(), REFRESH_PAUSE_MS);
    if (document.hidden || this.#chat.state !== 'open') return;
    // If it fails, the next time will do.
    this.#rooms.refresh().catch(() => {});
    this.#rooms.prepare();
    this.#people.refresh();
  }

  // Rooms.

  /** Goes to the room by its address. */
  open(name) {
    const address = addressOf(name);
    const isFromList = find('app').dataset.view === 'list';
    if (location.hash !== address) history.pushState({ isFromList }, '', address);
    this.#follow();
  }

  /** Back to the list: there may be a way that leads there, and it is not made longer. */
  #close() {
    if (history.state?.isFromList) return history.back();
    history.replaceState(null, '', location.pathname + location.search);
    return this.#follow();
  }

  /** Shows the room that the address names. */
  #follow() {
    for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
    const name = roomAt(location.hash);
    find('app').dataset.view = name === '' ? 'list' : 'room';
    if (name === '') {
      this.#rooms.close();
      this.#onChange('list');
      return;
    }
    // It may have come in another form.
    const address = addressOf(name);
    if (location.hash !== address) history.replaceState(history.state, '', address);
    this.#sidebar.clear();
    this.#rooms.open(name);
  }

  async #create(name) {
    try {
      await this.#rooms.create(name);
      this.#sidebar.clear();
      this.open(name);
    } catch (error) {
      if (error.code === 'room_exists') this.open(name);
      else toast(errorText(error));
    }
  }

  async #join() {
    const room = this.#rooms.active;
    try {
      if (room.isMissing) await this.#create(room.name);
      else await this.#rooms.join(room.name);
    } catch (error) {
      toast(errorText(error));
    }
  }

  #askToLeave() {
    this.#leaving = this.#rooms.active.name;
    say(find('leave-title'), `Leave ${this.#leaving}?`);
    find('leave-dialog').showModal();
  }

  async #leave() {
    find('leave-dialog').close();
    try {
      await this.#rooms.leave(this.#leaving);
    } catch (error) {
      toast(errorText(error));
    }
  }

  /** What is wrong with the text, if anything: it then stays where it is. */
  #send(text) {
    const room = this.#rooms.active;
    const limit = this.#chat.limits?.message_bytes ?? Infinity;
    const bytes = new TextEncoder().encode(text).length;
    if (bytes > limit) return errorText({ code: 'too_large', limit });
    if (text.includes('\0')) return 'This holds a character that cannot be sent (NUL).';
    this.#rooms.outgoing.send(room, text);
    this.#timeline.toLatest();
    return undefined;
  }

  // What is shown.

  #onChange(what, room) {
    if (what === 'list') {
      this.#sidebar.draw();
      return this.#drawFrame();
    }
    if (what === 'open') this.#show(room);
    if (room !== this.#rooms.active) return undefined;
    if (what === 'typing') return this.#head.drawTyping();
    if (what === 'people') this.#people.draw();
    else {
      this.#timeline.draw();
      this.#head.drawTyping();
    }
    return this.#drawFrame();
  }

  #show(room) {
    this.#people.begin();
    this.#frame();
    this.#timeline.show(room);
    this.#composer.show(room.name);
    this.#head.drawTyping();
    this.#sidebar.draw();
    if (room.isJoined) this.#composer.focus();
  }

  #frame() {
    const room = this.#rooms.active;
    // The button that was pressed may go away, and the focus with it.
    const wasOutside = find('outside').contains(document.activeElement);
    this.#head.draw();
    this.#people.show(room?.isJoined ? room : null);
    if (wasOutside && room?.isJoined) this.#composer.focus();
  }

  // Keys and buttons.

  #listen() {
    const on = (id, act) => { find(id).onclick = act; };
    on('back', () => this.#close());
    on('outside-back', () => this.#close());
    on('join', () => this.#join());
    on('leave', () => this.#askToLeave());
    on('leave-yes', () => this.#leave());
    on('leave-no', () => find('leave-dialog').close());
    on('help', () => find('help-dialog').showModal());
    on('help-close', () => find('help-dialog').close());
    on('skip', () => this.#composer.focus());
    on('rename', rename);
    window.onhashchange = () => this.#follow();
    window.onpagehide = () => this.#rooms.flush();
    document.onvisibilitychange = () => !document.hidden && (this.#chat.wake(), this.#refresh());
    document.onkeydown = (event) => this.#onKey(event);
  }

  #onKey(event) {
    // What is asked is answered first. (The browser closes it at Esc.)
    if (document.querySelector('dialog[open]')) return;
    const isTyping = event.target.matches?.('input, textarea');
    if ((event.ctrlKey || event.metaKey) && event.key === 'k') this.#sidebar.focus();
    else if (event.altKey && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) {
      const name = this.#sidebar.neighbour(event.key === 'ArrowUp' ? -1 : 1);
      if (name !== undefined) this.open(name);
    } else if (event.key === '?' && !isTyping) find('help-dialog').showModal();
    else if (event.key === 'Escape') this.#onEscape();
    else return;
    event.preventDefault();
  }

  #onEscape() {
    if (this.#people.isOver) this.#people.close();
    else if (this.#rooms.active?.isJoined) {
      this.#timeline.toLatest();
      this.#composer.focus();
    }
  }
}

start((chat) => new Page(chat));
