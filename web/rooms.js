/**
 * What the page knows of the rooms: which there are, which are the user's, a window of the events
 * of each, and what was read.
 *
 * It touches no document. Whoever shows a room looks here and is told when to look again.
 */

import { Marks } from './marks.js';
import { Outgoing } from './outgoing.js';
import { PAGE_LEN, Pages, WINDOW_LEN_MAX } from './pages.js';
import { Room, isNews } from './room.js';
import { Signs } from './signs.js';
import { collate } from './words.js';

/** Events of each room that is not open. */
const KEPT_LEN_MAX = 100;
/** Pages in which the first of the unread is looked for. Their events fit into the window. */
const SEEK_PAGES_MAX = 5;
/** Rooms in the list. Beyond it they are found by searching. */
const LIST_LEN_MAX = 2000;
const LIST_PAGE_LEN = 1000;
/** Rooms that a search finds beyond the list. */
const SEARCH_LEN_MAX = 200;

export class Rooms {
  #chat;
  #marks;
  #signs;
  #onChange;
  #all = new Map();
  /** All by name, until another comes: it is asked for at every draw. */
  #sorted;
  /** Those who wait for the server's word on a room, by its name. */
  #waiting = new Map();
  /** All rooms that there are were gone through once. */
  #isListed = false;
  /** The open room, if any. */
  active = null;
  /** Whether the user sees the end of the open room. */
  isWatching = false;

  /** `memory` is what is left of earlier visits; `onChange(what, room)` is called at changes. */
  constructor(chat, memory, onChange) {
    [this.#chat, this.#onChange] = [chat, onChange];
    for (const [name, readSeq] of memory.marks()) {
      Object.assign(this.get(name), { isJoined: true, readSeq, countedTo: readSeq });
    }
    const get = (name) => this.get(name);
    this.pages = new Pages(chat, (room) => this.#onPage(room));
    this.outgoing = new Outgoing(chat, get, memory, (room) => onChange('room', room));
    this.#signs = new Signs(chat, get, onChange);
    this.#marks = new Marks(chat, () => {
      memory.keepMarks(this.#own.map(({ name, readSeq }) => [name, readSeq]));
    });
    chat.on('event', (event) => this.#onEvent(event));
    chat.on('joined', (joined) => this.#onJoined(joined));
    chat.on('left', ({ room, error }) => this.#onLeft(room, error));
    chat.on('reset', ({ room }) => this.#onReset(room));
    chat.on('read', ({ room, user_id, seq }) => user_id === chat.user && this.#onRead(room, seq));
  }

  get(name) {
    if (!this.#all.has(name)) {
      this.#all.set(name, new Room(name));
      this.#sorted = undefined;
    }
    return this.#all.get(name);
  }

  get #own() {
    return [...this.#all.values()].filter((room) => room.isJoined);
  }

  /** The user's rooms, and the others, each by name. */
  lists() {
    this.#sorted ??= [...this.#all.values()].sort((a, b) => collate(a.name, b.name));
    const own = this.#sorted.filter((room) => room.isJoined);
    return { own, others: this.#sorted.filter((room) => !room.isJoined) };
  }

  get isOpen() {
    return this.#chat.state === 'open';
  }

  get unread() {
    return this.#own.reduce((sum, room) => sum + room.unread, 0);
  }

  /**
   * Asks for the list, and follows the user's rooms that are not followed yet. The first time it
   * goes through all rooms that there are: the user may be in any of them.
   */
  async refresh() {
    const lenMax = this.#isListed ? LIST_LEN_MAX : Infinity;
    let [after, more, count] = [undefined, true, 0];
    while (more && count < lenMax) {
      const page = await this.#chat.rooms({ after, limit: LIST_PAGE_LEN });
      const isListed = count < LIST_LEN_MAX;
      this.#take(page.rooms.filter(({ unread }) => isListed || unread !== undefined));
      this.#followOwn();
      [after, more, count] = [page.rooms.at(-1)?.room, page.more, count + page.rooms.length];
    }
    this.#isListed = true;
    this.#onChange('list');
  }

  /** Rooms that are new, or beyond the list, and have that name or one that begins so. */
  async search(text) {
    const names = [...new Set([text, text.toLocaleLowerCase()])];
    await Promise.all(names.flatMap((name) => [this.#look(name), this.#lookBehind(name)]));
    this.#onChange('list');
  }

  /** Shows a room as soon as all that is needed for it is here. */
  open(name) {
    this.close();
    const room = this.get(name);
    this.active = room;
    this.#onChange('open', room);
    return this.prepare();
  }

  /** Gets what the open room lacks. To be called again when that could not be had. */
  prepare() {
    const room = this.active;
    if (!room || room.isReady) return undefined;
    room.preparing ??= this.#prepare(room).finally(() => { room.preparing = undefined; });
    return room.preparing;
  }

  close() {
    const room = this.active;
    if (!room) return;
    this.active = null;
    this.isWatching = false;
    Object.assign(room, { isReady: false, newFrom: 0, error: undefined });
    // It may come back at any time, and begins at its end then.
    if (room.isLive) room.events.splice(0, room.events.length - KEPT_LEN_MAX);
    else room.events = [];
    room.hasOlder = (room.events[0]?.seq ?? 2) > 1;
  }

  async create(name) {
    await this.#chat.create(name);
    await this.join(name);
  }

  async join(name) {
    const room = this.get(name);
    const { members, last_seq } = await this.#chat.join(name, { last: PAGE_LEN });
    const read = { readSeq: last_seq, countedTo: last_seq, unread: 0, isCounted: true };
    Object.assign(room, { isJoined: true, isMissing: false, members, ...read });
    this.#beReady(room);
    this.#marks.set(room);
    this.#onChange('list');
    this.#onChange('room', room);
  }

  async leave(name) {
    await this.#chat.leave(name);
    this.#onLeft(name);
  }

  /** The user sees the end of the open room, or no longer does; or is not even there. */
  watch(isWatching, isPresent) {
    const room = this.active;
    // The line "New" has done its work when the user goes away, not when they look.
    if (!isPresent && room?.unread === 0) room.newFrom = 0;
    this.isWatching = isWatching && Boolean(room?.isReady);
    if (this.isWatching && room.isLive) this.#markRead(room);
  }

  /** Nothing that is to be told or kept waits any longer: the page may end. */
  flush() {
    this.#marks.flush();
  }

  /**
   * Where the room is shown depends on what is read, and only the server knows that: it may have
   * been read somewhere else. So first its end is fetched, which also says whether the user is a
   * member; then the room is followed, and `joined` says the rest. If what is unread begins before
   * the window, the window is moved there.
   */
  async #prepare(room) {
    room.error = undefined;
    try {
      if (room.events.length === 0) await this.pages.latest(room);
      if (!room.isCounted) await this.#follow(room);
      const isFar = room.unread > 0 && !room.reaches(room.readSeq);
      if (isFar && this.isOpen) await this.#seekUnread(room);
      this.#beReady(room);
      this.#markNew(room);
    } catch (error) {
      this.#onUnknown(room, error);
    } finally {
      this.#onChange('room', room);
      this.#onChange('list');
    }
  }

  /** If nothing but coming and going stands behind what was read, the end is as good a place. */
  async #seekUnread(room) {
    const isFound = () => room.firstUnread(this.#chat.user) > 0;
    await this.pages.from(room, room.readSeq);
    for (let pages = 1; pages < SEEK_PAGES_MAX && !room.isLive && !isFound(); pages += 1) {
      await this.pages.newer(room);
    }
    if (!isFound()) await this.pages.latest(room);
  }

  #beReady(room) {
    room.isReady = room === this.active && room.isJoined;
    if (room.isReady) this.#signs.ask(room);
  }

  /** Resolves when the server has said what is read, or that the user is no member. */
  #follow(room) {
    const counted = new Promise((resolve) => { this.#waiting.set(room.name, resolve); });
    this.#chat.resume({ [room.name]: room.last });
    return counted;
  }

  #followOwn() {
    const followed = this.#chat.positions();
    const news = this.#own.filter((room) => followed[room.name] === undefined);
    const starts = news.map((room) => [room.name, startOf(room)]);
    if (starts.length > 0) this.#chat.resume(Object.fromEntries(starts));
  }

  /** Whether there is a room of that name: who is not in it is told that, or that there is none. */
  async #look(name) {
    try {
      await this.#chat.history(name, { limit: 1 });
    } catch (error) {
      if (error.code === 'not_member') this.get(name);
    }
  }

  /** In the order of names those that begin with one stand right behind it. */
  async #lookBehind(name) {
    const { rooms } = await this.#chat.rooms({ after: name, limit: SEARCH_LEN_MAX });
    this.#take(rooms.filter(({ room }) => room.startsWith(name)));
  }

  #onUnknown(room, error) {
    room.isMissing = error.code === 'room_not_found';
    if (room.isMissing && this.#all.delete(room.name)) this.#sorted = undefined;
    if (room.isMissing || error.code === 'not_member') room.isJoined = false;
    // Time will tell, or the next connection.
    else if (error.code !== 'timeout' && error.code !== 'closed') room.error = error;
  }

  #take(rooms) {
    const followed = this.#chat.positions();
    for (const { room: name, last_seq, members, read, unread } of rooms) {
      const room = this.get(name);
      // Of a room that is followed the events tell better.
      if (followed[name] !== undefined) continue;
      Object.assign(room, { members, lastSeq: Math.max(room.last, last_seq) });
      if (unread === undefined) continue;
      room.isJoined = true;
      this.#takeUnread(room, { last_seq, read, unread });
    }
  }

  #onPage(room) {
    this.#markNew(room);
    this.#onChange('room', room);
  }

  #onEvent(event) {
    const room = this.get(event.room);
    room.lastSeq = Math.max(room.lastSeq, event.seq);
    room.typing.delete(event.user_id);
    if (event.user_id === this.#chat.user) this.outgoing.onEvent(room, event);
    this.#append(room, event);
    this.#count(room, event);
    this.#onChange('room', room);
  }

  #count(room, { type, seq, user_id }) {
    if (seq > room.membersAt && type !== 'message') {
      room.members += Number(type === 'join') - Number(type === 'leave');
      this.#onChange('list');
    }
    const isNew = isNews({ type, user_id }, this.#chat.user) && seq > room.countedTo;
    room.countedTo = Math.max(room.countedTo, seq);
    if (room === this.active && this.isWatching && room.isLive) return this.#markRead(room);
    if (isNew) this.#setUnread(room, room.unread + 1);
    return this.#markNew(room);
  }

  #append(room, event) {
    const isActive = room === this.active;
    // Somebody who reads further up is not pushed on: the window stays, and ends before the room.
    const isReading = isActive && !this.isWatching;
    if (isReading && room.events.length >= WINDOW_LEN_MAX) return;
    room.append(event, isActive ? WINDOW_LEN_MAX : KEPT_LEN_MAX);
  }

  #onJoined({ room: name, last_seq, members, read = last_seq, unread = 0 }) {
    const room = this.get(name);
    Object.assign(room, { isJoined: true, members, membersAt: last_seq });
    room.lastSeq = Math.max(room.lastSeq, last_seq);
    this.#takeUnread(room, { last_seq, read, unread });
    this.#resolve(name);
    this.#onChange('list');
    this.#onChange('room', room);
    if (room === this.active && room.isReady) this.#signs.ask(room);
  }

  /** The server counted up to `last_seq`: what is replayed up to there is counted already. */
  #takeUnread(room, { last_seq, read, unread }) {
    Object.assign(room, { countedTo: last_seq, isCounted: true });
    if (room.readSeq > read) {
      // It was read here, and the server has not heard of it: the page was closed too soon.
      this.#setUnread(room, room.readSeq >= last_seq ? 0 : unread);
      this.#chat.read(room.name, Math.min(room.readSeq, last_seq));
    } else {
      room.readSeq = read;
      this.#setUnread(room, unread);
    }
    this.#markNew(room);
    this.#marks.touch();
  }

  #setUnread(room, unread) {
    // All that was new before is read: from now on the line "New" stands above what comes.
    if (room.unread === 0 && unread > 0) room.newFrom = 0;
    if (room.unread !== unread) this.#onChange('list');
    room.unread = unread;
  }

  /** What comes while the user sees it is not marked as new. */
  #markNew(room) {
    if (!room.isReady || this.isWatching || room.unread === 0) return;
    room.newFrom ||= room.firstUnread(this.#chat.user);
  }

  #onLeft(name, error) {
    const room = this.get(name);
    const unknown = { isReady: false, isCounted: false, online: undefined, onlineCount: undefined };
    Object.assign(room, { events: [], hasOlder: true, unread: 0, newFrom: 0, ...unknown });
    room.isJoined = false;
    if (error) this.#onUnknown(room, error);
    this.#resolve(name);
    this.#marks.touch();
    this.#onChange('list');
    this.#onChange('room', room);
  }

  #resolve(name) {
    this.#waiting.get(name)?.();
    this.#waiting.delete(name);
  }

  /** The server's log is an older one than was shown. */
  #onReset(name) {
    const room = this.get(name);
    const none = { lastSeq: 0, unread: 0, readSeq: 0, countedTo: 0, newFrom: 0 };
    Object.assign(room, { events: [], hasOlder: true, ...none });
    if (room === this.active) this.pages.older(room).catch(() => {});
  }

  /** The user has read it somewhere else. */
  #onRead(name, seq) {
    const room = this.get(name);
    if (seq <= room.readSeq) return;
    room.readSeq = seq;
    if (seq >= room.lastSeq) this.#setUnread(room, 0);
    else if (room.isLive && room.reaches(seq)) {
      this.#setUnread(room, room.newsAbove(seq, this.#chat.user).length);
    }
  }

  #markRead(room) {
    const { unread, readSeq, lastSeq } = room;
    if (lastSeq <= readSeq && unread === 0) return;
    room.readSeq = lastSeq;
    this.#setUnread(room, 0);
    this.#marks.set(room);
  }
}

/** From where a room is followed: what is unread, as far as it is worth showing a number for. */
function startOf(room) {
  return Math.max(0, Math.min(room.readSeq, room.lastSeq), room.lastSeq - KEPT_LEN_MAX);
}
