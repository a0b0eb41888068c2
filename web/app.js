/**
 * The page: puts the parts together, and shows what belongs to all of them: who speaks, which room
 * is open, how the connection is.
 *
 * The address after the # is the open room, so a reload, a link and the browser's own back button
 * do what one expects.
 */

import { addressOf, roomAt } from './address.js';
import { Composer } from './composer.js';
import { find, say, soon } from './dom.js';
import { Memory } from './memory.js';
import { People } from './people.js';
import { Rooms } from './rooms.js';
import { HUES } from './row.js';
import { Sidebar } from './sidebar.js';
import { read, write } from './storage.js';
import { Timeline } from './timeline.js';
import { rename, start } from './welcome.js';
import { count, errorText, hue, initials, number, typing } from './words.js';

const PEOPLE_KEY = 'verbatim-page:people';
/** How often the list of rooms is asked for while somebody looks at it. */
const REFRESH_PAUSE_MS = 30_000;
/** A break that is over sooner than this is not worth a word. */
const BANNER_PAUSE_MS = 1500;
/** How long a message about something that went wrong stays. */
const TOAST_MS = 6000;
/** From here on the list of people has room beside the conversation. (The same in style.css.) */
const WIDE = matchMedia('(min-width: 1100px)');

class Page {
  #chat;
  #rooms;
  #sidebar;
  #timeline;
  #composer;
  #people;
  #refreshTimer;
  #bannerTimer;
  #typingTimer;
  #wantsPeople = false;
  #drawHead = soon(() => this.#head());

  constructor(chat) {
    this.#chat = chat;
    const onChange = (what, room) => this.#onChange(what, room);
    this.#rooms = new Rooms(chat, new Memory(chat.user), onChange);
    this.#sidebar = new Sidebar(this.#rooms, {
      open: (name) => this.open(name),
      create: (name) => this.#create(name),
    });
    this.#timeline = new Timeline(this.#rooms, chat.user);
    this.#people = new People(chat);
    this.#composer = new Composer({
      onSend: (text) => this.#send(text),
      onTyping: () => chat.typing(this.#rooms.active.name),
      onScroll: (pages) => this.#timeline.scrollBy(pages),
    });
    chat.on('state', (state) => this.#onState(state));
    this.#listen();
    say(find('me-name'), chat.user);
    say(find('me-avatar'), initials(chat.user));
    find('me-avatar').className = `avatar hue-${hue(chat.user, HUES)}`;
    this.#onState({ state: 'open' });
    this.#follow();
  }

  // The connection.

  #onState({ state, error, retry_ms }) {
    const words = {
      connecting: 'Connecting…',
      resuming: 'Catching up…',
      open: `Connected to ${this.#chat.node}`,
      waiting: 'Offline',
      closed: 'Disconnected',
    };
    say(find('status-text'), words[state]);
    find('status').dataset.state = state;
    this.#banner(state, retry_ms, error);
    this.#drawHead();
    this.#timeline.draw();
    if (state === 'open') this.#refresh();
  }

  #banner(state, retry_ms, error) {
    const banner = find('banner');
    clearTimeout(this.#bannerTimer);
    if (state === 'open') {
      banner.hidden = true;
      return;
    }
    this.#bannerTimer = setTimeout(() => { banner.hidden = false; }, BANNER_PAUSE_MS);
    const seconds = Math.round(retry_ms / 1000);
    const pause = retry_ms > BANNER_PAUSE_MS ? ` Next try in ${seconds} s.` : '';
    find('retry').hidden = state === 'closed';
    if (state === 'closed') say(find('banner-text'), `${errorText(error)} Please reload the page.`);
    if (state !== 'waiting') return;
    say(find('banner-text'), `You are offline. What you write is kept, and sent once.${pause}`);
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

  /** Goes to the room by its address; `#follow` then shows it. */
  open(name) {
    const address = addressOf(name);
    if (location.hash === address) this.#follow();
    else location.hash = address;
  }

  /** Shows the room that the address names. */
  #follow() {
    const name = roomAt(location.hash);
    if (name !== '') history.replaceState(history.state, '', addressOf(name));
    find('app').dataset.view = name === '' ? 'list' : 'room';
    if (name === '') {
      this.#rooms.close();
      this.#onChange('list');
      return;
    }
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
      else this.#toast(errorText(error));
    }
  }

  async #join() {
    const room = this.#rooms.active;
    try {
      if (room.isMissing) return await this.#create(room.name);
      await this.#rooms.join(room.name);
    } catch (error) {
      this.#toast(errorText(error));
    }
  }

  async #leave() {
    find('leave-dialog').close();
    try {
      await this.#rooms.leave(this.#rooms.active.name);
    } catch (error) {
      this.#toast(errorText(error));
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
      return this.#drawHead();
    }
    if (what === 'open') this.#show(room);
    if (room !== this.#rooms.active) return undefined;
    if (what === 'typing') return this.#drawTyping();
    if (what === 'people') this.#people.draw();
    else {
      this.#timeline.draw();
      this.#drawTyping();
    }
    return this.#drawHead();
  }

  #show(room) {
    this.#wantsPeople = WIDE.matches && read(PEOPLE_KEY) !== 'closed';
    this.#head();
    this.#timeline.show(room);
    this.#composer.show(room.name);
    this.#drawTyping();
    this.#sidebar.draw();
    if (room.isJoined) this.#composer.focus();
  }

  #drawPeople() {
    const room = this.#rooms.active;
    this.#people.show(this.#wantsPeople && room?.isJoined ? room : null);
    find('people-toggle').setAttribute('aria-expanded', String(this.#wantsPeople));
  }

  #head() {
    const room = this.#rooms.active;
    const isInside = Boolean(room?.isJoined);
    // The button that was pressed goes away, and the focus with it.
    const wasPressed = find('outside').contains(document.activeElement);
    find('nothing').hidden = Boolean(room);
    find('conversation').hidden = !isInside;
    find('outside').hidden = !room || isInside;
    if (isInside && wasPressed) this.#composer.focus();
    const { unread } = this.#rooms;
    document.title = `${unread > 0 ? `(${unread}) ` : ''}${room ? `${room.name} · ` : ''}Verbatim`;
    this.#drawPeople();
    if (!room) return;
    const { onlineCount } = room;
    const online = onlineCount === undefined ? '' : ` · ${number(onlineCount)} online`;
    say(find('room-name'), room.name);
    say(find('room-facts'), `${count(room.members, 'member')}${online}`);
    say(find('position'), `${this.#chat.node ?? '–'} · № ${number(room.lastSeq)}`);
    say(find('outside-name'), room.name);
    say(find('outside-facts'), this.#outsideText(room));
    say(find('join'), room.isMissing ? 'Create this room' : 'Join this room');
    find('join').hidden = room.isJoined !== false || Boolean(room.error);
  }

  /** Why the room is not shown; or what it is, to somebody who is not in it. */
  #outsideText({ isJoined, isMissing, error, members, lastSeq }) {
    if (error) return errorText(error);
    if (isMissing) return 'There is no such room yet.';
    if (isJoined === undefined) {
      const isAway = this.#chat.state !== 'open';
      return isAway ? 'The room is shown when there is a connection.' : 'Loading…';
    }
    if (lastSeq === 0) return 'You are not in this room.';
    return `${count(members, 'member')} · ${count(lastSeq, 'entry', 'entries')}`;
  }

  /** Somebody who has stopped without a word is forgotten after a while. */
  #drawTyping() {
    clearTimeout(this.#typingTimer);
    const room = this.#rooms.active;
    if (!room) return;
    const now = performance.now();
    const users = [...room.typing].filter(([, until]) => until > now).map(([user]) => user);
    say(find('typing'), typing(users));
    if (users.length > 0) this.#typingTimer = setTimeout(() => this.#drawTyping(), 1000);
  }

  #toast(text) {
    const toast = find('toast');
    say(toast, text);
    toast.classList.add('shown');
    setTimeout(() => {
      toast.classList.remove('shown');
      say(toast, '');
    }, TOAST_MS);
  }

  // Keys and buttons.

  #listen() {
    const ask = (id) => () => find(id).showModal();
    find('back').onclick = find('outside-back').onclick = () => { location.hash = ''; };
    find('retry').onclick = () => this.#chat.wake();
    find('join').onclick = () => this.#join();
    find('leave').onclick = () => {
      say(find('leave-title'), `Leave ${this.#rooms.active.name}?`);
      ask('leave-dialog')();
    };
    find('leave-yes').onclick = () => this.#leave();
    find('leave-no').onclick = () => find('leave-dialog').close();
    find('help').onclick = ask('help-dialog');
    find('help-close').onclick = () => find('help-dialog').close();
    find('skip').onclick = () => this.#composer.focus();
    find('rename').onclick = rename;
    const togglePeople = () => {
      this.#wantsPeople = !this.#wantsPeople;
      write(PEOPLE_KEY, this.#wantsPeople ? 'open' : 'closed');
      this.#drawPeople();
    };
    find('people-toggle').onclick = togglePeople;
    find('people-close').onclick = () => {
      togglePeople();
      find('people-toggle').focus();
    };
    window.onhashchange = () => this.#follow();
    window.ononline = window.onoffline = () => this.#chat.wake();
    window.onpagehide = () => this.#rooms.flush();
    document.onvisibilitychange = () => !document.hidden && (this.#chat.wake(), this.#refresh());
    document.onkeydown = (event) => this.#onKey(event);
  }

  #onKey(event) {
    const isTyping = event.target.matches?.('input, textarea');
    const isOpen = document.querySelector('dialog[open]');
    if ((event.ctrlKey || event.metaKey) && event.key === 'k') this.#sidebar.focus();
    else if (event.altKey && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) {
      const name = this.#sidebar.neighbour(event.key === 'ArrowUp' ? -1 : 1);
      if (name !== undefined) this.open(name);
    } else if (event.key === '?' && !isTyping && !isOpen) find('help-dialog').showModal();
    else if (event.key === 'Escape' && !isOpen) this.#onEscape();
    else return;
    event.preventDefault();
  }

  #onEscape() {
    if (this.#people.isOpen && !WIDE.matches) find('people-close').click();
    else if (this.#rooms.active?.isJoined) {
      this.#timeline.toLatest();
      this.#composer.focus();
    }
  }
}

start((chat) => new Page(chat));
