/**
 * What the page knows of the rooms: which there are, which are the user's, a window of the events
 * of each, what waits to be sent, what was read.
 *
 * It touches no document. Whoever shows a room looks here and is told when to look again.
 */

import { Outgoing } from './outgoing.js';
import { Room, isNews } from './room.js';

/** Events of the open room that are kept, and so are in the document. Others are read again. */
const WINDOW_LEN_MAX = 600;
/** Events of each other room. */
const KEPT_LEN_MAX = 100;
/** Events in a page of history. */
const PAGE_LEN = 100;
/** Rooms in the list. Beyond it they are found by searching. */
const LIST_LEN_MAX = 2000;
const LIST_PAGE_LEN = 1000;
/** Between two marks of reading that are told to the server. */
const READ_PAUSE_MS = 1000;

export class Rooms {
  #chat;
  #memory;
  #onChange;
  #all = new Map();
  #reads = new Map();
  #readTimer;
  /** The open room, if any. */
  active = null;
  /** Whether the user sees the end of the open room. */
  isWatching = false;
  /** Whether the list is longer than what is kept of it. */
  hasMore = false;

  /** `memory` is what is left of earlier visits; `onChange(what, room)` is called at changes. */
  constructor(chat, memory, onChange) {
    [this.#chat, this.#memory, this.#onChange] = [chat, memory, onChange];
    for (const [name, readSeq] of memory.marks()) {
      Object.assign(this.get(name), { isJoined: true, readSeq, countedTo: readSeq });
    }
    const get = (name) => this.get(name);
    this.outgoing = new Outgoing(chat, get, memory, (room) => onChange('room', room));
    chat.on('event', (event) => this.#onEvent(event));
    chat.on('joined', (joined) => this.#onJoined(joined));
    chat.on('left', ({ room }) => this.#onLeft(room));
    chat.on('reset', ({ room }) => this.#onReset(room));
    chat.on('who', (who) => this.#onWho(who));
    chat.on('presence', (presence) => this.#onPresence(presence));
    chat.on('typing', (typing) => this.#onTyping(typing));
    chat.on('read', ({ room, user_id, seq }) => user_id === chat.user && this.#onRead(room, seq));
  }

  get(name) {
    if (!this.#all.has(name)) this.#all.set(name, new Room(name));
    return this.#all.get(name);
  }

  /** The user's rooms, and the others, each by name. */
  lists() {
    const compare = new Intl.Collator(undefined, { numeric: true }).compare;
    const all = [...this.#all.values()].sort((a, b) => compare(a.name, b.name));
    const own = all.filter((room) => room.isJoined);
    return { own, others: all.filter((room) => !room.isJoined) };
  }

  get isOpen() {
    return this.#chat.state === 'open';
  }

  get unread() {
    return this.lists().own.reduce((sum, room) => sum + room.unread, 0);
  }

  /** Asks for the list, and follows the user's rooms that are not followed yet. */
  async refresh() {
    let [after, more, count] = [undefined, true, 0];
    while (more && count < LIST_LEN_MAX) {
      const page = await this.#chat.rooms({ after, limit: LIST_PAGE_LEN });
      this.#take(page.rooms);
      [after, more, count] = [page.rooms.at(-1)?.room, page.more, count + page.rooms.length];
    }
    this.hasMore = more;
    const followed = this.#chat.positions();
    const news = this.lists().own.filter((room) => followed[room.name] === undefined);
    this.#chat.resume(Object.fromEntries(news.map((room) => [room.name, startOf(room)])));
    this.#onChange('list');
  }

  /** Rooms beyond the list whose names begin with that text, or stand close behind it. */
  async search(text) {
    const { rooms } = await this.#chat.rooms({ after: text.slice(0, -1) || undefined, limit: 200 });
    this.#take(rooms);
    this.#onChange('list');
  }

  /** Shows a room. Whether the user is a member may only turn out by asking for its events. */
  async open(name) {
    this.close();
    const room = this.get(name);
    this.active = room;
    room.newFrom = room.unread > 0 ? room.firstUnread(this.#chat.user) : 0;
    this.#onChange('open', room);
    try {
      if (room.isJoined === undefined || room.events.length < PAGE_LEN) await this.older(room);
      if (room.isJoined === undefined) this.#found(room);
      await this.#ask(room);
    } catch (error) {
      room.isJoined ||= false;
      room.isMissing = error.code === 'room_not_found';
      if (room.isMissing) this.#all.delete(name);
      else if (error.code !== 'not_member') throw error;
    } finally {
      this.#onChange('room', room);
      this.#onChange('list');
    }
  }

  close() {
    const room = this.active;
    if (!room) return;
    this.active = null;
    this.isWatching = false;
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
    const read = { readSeq: last_seq, countedTo: last_seq, unread: 0 };
    Object.assign(room, { isJoined: true, members, ...read });
    this.#chat.read(name, last_seq);
    this.#remember();
    this.#onChange('list');
    this.#onChange('room', room);
  }

  async leave(name) {
    await this.#chat.leave(name);
    this.#onLeft(name);
  }

  /** What was said before the window. */
  async older(room) {
    if (room.isLoading || !room.hasOlder) return;
    const before = room.events[0]?.seq;
    await this.#load(room, { before }, ({ events, more }) => {
      if (room.events[0]?.seq !== before) return;
      room.events.unshift(...events);
      room.hasOlder = more;
      room.lastSeq = Math.max(room.lastSeq, room.last);
      room.events.length = Math.min(room.events.length, WINDOW_LEN_MAX);
    });
  }

  /** What was said after the window, until it is live again. */
  async newer(room) {
    const after = room.last;
    if (room.isLoading || room.isLive) return;
    await this.#load(room, { after }, ({ events }) => {
      if (room.last !== after) return;
      room.events.push(...events);
      room.lastSeq = Math.max(room.lastSeq, room.last);
      room.shorten(WINDOW_LEN_MAX);
    });
  }

  /** Back to the end of the room, wherever the window is. */
  async latest(room) {
    if (room.isLive) return;
    Object.assign(room, { events: [], hasOlder: true });
    await this.older(room);
  }

  /** The user sees the end of the open room (or no longer does). */
  watch(isWatching) {
    const room = this.active;
    // The line "New" has done its work when the user goes away, not when they look.
    if (this.isWatching && !isWatching && room?.unread === 0) room.newFrom = 0;
    this.isWatching = isWatching;
    if (isWatching && room?.isLive) this.#markRead(room);
  }

  async #load(room, where, take) {
    room.isLoading = true;
    try {
      take(await this.#chat.history(room.name, { ...where, limit: PAGE_LEN }));
    } finally {
      room.isLoading = false;
    }
    this.#onChange('room', room);
  }

  #take(rooms) {
    const followed = this.#chat.positions();
    for (const { room: name, last_seq, members, read, unread } of rooms) {
      const room = this.get(name);
      // Of a room that is followed the events tell better.
      if (followed[name] !== undefined) continue;
      Object.assign(room, { members, lastSeq: last_seq });
      if (unread === undefined) continue;
      room.isJoined = true;
      this.#takeUnread(room, { last_seq, read, unread });
    }
  }

  /** The room turned out to be the user's: from now on it is followed. */
  #found(room) {
    Object.assign(room, { isJoined: true, readSeq: room.lastSeq, countedTo: room.lastSeq });
    this.#chat.resume({ [room.name]: room.last });
    this.#remember();
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
    if (!isNew) return undefined;
    room.unread += 1;
    room.newFrom ||= room === this.active ? seq : 0;
    return this.#onChange('list');
  }

  #append(room, event) {
    const isActive = room === this.active;
    // Somebody who reads further up is not pushed on: the window stays, and ends before the room.
    const isReading = isActive && !this.isWatching;
    if (isReading && room.events.length >= WINDOW_LEN_MAX) return;
    room.append(event, isActive ? WINDOW_LEN_MAX : KEPT_LEN_MAX);
  }

  #onJoined({ room: name, last_seq, members, read, unread }) {
    const room = this.get(name);
    Object.assign(room, { isJoined: true, members, membersAt: last_seq });
    room.lastSeq = Math.max(room.lastSeq, last_seq);
    if (unread !== undefined) this.#takeUnread(room, { last_seq, read, unread });
    this.#onChange('list');
    this.#onChange('room', room);
    if (room === this.active) this.#ask(room);
  }

  /** The server counted up to `last_seq`: what is replayed up to there is counted already. */
  #takeUnread(room, { last_seq, read, unread }) {
    room.countedTo = last_seq;
    if (room.readSeq > read) {
      // It was read here, and the server has not heard of it: the page was closed too soon.
      room.unread = room.readSeq >= last_seq ? 0 : unread;
      this.#chat.read(room.name, Math.min(room.readSeq, last_seq));
    } else Object.assign(room, { unread, readSeq: read });
  }

  #onLeft(name) {
    const room = this.get(name);
    const none = { events: [], hasOlder: true, unread: 0 };
    Object.assign(room, { online: undefined, onlineCount: undefined });
    Object.assign(room, { isJoined: false, ...none });
    this.#remember();
    this.#onChange('list');
    this.#onChange('room', room);
  }

  /** The server's log is an older one than was shown. */
  #onReset(name) {
    const room = this.get(name);
    const none = { lastSeq: 0, unread: 0, readSeq: 0, countedTo: 0 };
    Object.assign(room, { events: [], hasOlder: true, ...none });
    if (room === this.active) this.older(room).catch(() => {});
  }

  /** Who is there now. On this connection `presence` tells the differences from then on. */
  async #ask(room) {
    const who = await this.#chat.who(room.name);
    if (who) this.#onWho(who);
  }

  #onWho({ room: name, online, count }) {
    const room = this.get(name);
    [room.online, room.onlineCount] = [online && new Set(online), count];
    this.#onChange('people', room);
  }

  #onPresence({ room: name, online, offline = [], count }) {
    const room = this.get(name);
    room.onlineCount = count;
    // In a crowd the server only counts.
    if (online === undefined) room.online = undefined;
    for (const user of online ?? []) room.online?.add(user);
    for (const user of offline) room.online?.delete(user);
    this.#onChange('people', room);
  }

  #onTyping({ room: name, user_id, expires_ms }) {
    if (user_id === this.#chat.user) return;
    const room = this.get(name);
    room.typing.set(user_id, Date.now() + expires_ms);
    this.#onChange('typing', room);
  }

  /** The user has read it somewhere else. */
  #onRead(name, seq) {
    const room = this.get(name);
    if (seq <= room.readSeq) return;
    room.readSeq = seq;
    const unread = room.events.filter((event) => event.seq > seq && isNews(event, this.#chat.user));
    room.unread = Math.min(room.unread, unread.length);
    this.#onChange('list');
  }

  #markRead(room) {
    const { unread, readSeq, lastSeq } = room;
    if (lastSeq <= readSeq && unread === 0) return;
    Object.assign(room, { readSeq: lastSeq, unread: 0 });
    this.#remember();
    if (unread > 0) this.#onChange('list');
    this.#reads.set(room.name, room.readSeq);
    this.#readTimer ??= setTimeout(() => this.tellRead(), READ_PAUSE_MS);
  }

  /** Tells the server what was read, all at once. */
  tellRead() {
    clearTimeout(this.#readTimer);
    this.#readTimer = undefined;
    for (const [name, seq] of this.#reads) this.#chat.read(name, seq);
    this.#reads.clear();
  }

  #remember() {
    const own = this.lists().own.map((room) => [room.name, room.readSeq]);
    this.#memory.keepMarks(own);
  }
}

/** From where a room is followed: what is unread, as far as it is worth showing a number for. */
function startOf(room) {
  return Math.max(0, Math.min(room.readSeq, room.lastSeq), room.lastSeq - KEPT_LEN_MAX);
}
