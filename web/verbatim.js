/**
 * Verbatim's JavaScript client, for browsers and for Node: a conversation that goes on.
 *
 *     import { connect } from './verbatim.js';
 *
 *     const chat = connect('ws://127.0.0.1:8080/ws', { user: 'ada' });
 *     chat.on('event', ({ seq, user_id, message }) => console.log(seq, user_id, message));
 *     await chat.join('general', { last: 50 });
 *     const seq = await chat.send('general', 'Hello World!');
 *
 * It keeps what the protocol promises: each event of a followed room is told once, in order and
 * without a hole, however often the connection breaks, and a message that was sent goes out once.
 * It keeps no events and shows nothing: that is the application's. Types and a sentence on each
 * method stand in verbatim.d.ts.
 */

import { ChatError, RETRY_CODES, closed, failure } from './verbatim/failure.js';
import { newId } from './verbatim/id.js';
import { Line } from './verbatim/line.js';
import { Outbox } from './verbatim/outbox.js';
import { Questions } from './verbatim/questions.js';

export { ChatError, newId };

/** Others take somebody as typing for 6 s, or until they send it. A server tells one in 3 s. */
const TYPING_PAUSE_MS = 3000;
/** Rooms in one `resume`: far below the longest frame, whatever their names. */
const RESUME_LEN_MAX = 100;
/** Events in a page when a hole is mended: the most that a server gives. */
const PAGE_LEN = 200;

/** Connects, and connects again whenever the connection ends, until `close()`. */
export function connect(url, options) {
  return new Chat(url.href ?? url, options);
}

class Chat {
  #line;
  #outbox;
  #questions;
  #listeners = new Map();
  /** Followed rooms: the place of each, see `#follow`. */
  #rooms = new Map();
  /** Each `resume` that is not `resumed` yet, by its id: its rooms, and how often it was tried. */
  #resumes = new Map();
  /** Signs of life that this server does not know. */
  #unknown = new Set();
  /** When each room was last told of typing. */
  #typed = new Map();

  constructor(url, options) {
    this.user = String(options.user).normalize('NFC');
    this.state = 'connecting';
    this.node = this.server = this.limits = undefined;
    this.#line = new Line(url, options, {
      onState: (state, more) => this.#onState(state, more),
      onFrame: (frame) => this.#onFrame(frame),
      onBreak: () => this.#onBreak(),
    });
    this.#outbox = new Outbox({
      storage: options.storage,
      user: this.user,
      url,
      line: this.#line,
      emit: (type, event) => {
        // Their message has taken the typing back: with the next one it is told anew.
        if (type === 'sent') this.#typed.delete(event.room);
        this.#emit(type, event);
      },
    });
    this.#questions = new Questions(this.#line, (frame) => this.#write(frame));
    this.#line.open();
  }

  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  join(room, { since, last } = {}) {
    return this.#questions.ask({ type: 'join', room, since, last });
  }

  leave(room) {
    return this.#questions.ask({ type: 'leave', room });
  }

  create(room) {
    return this.#questions.ask({ type: 'create', room });
  }

  history(room, { before, after, limit } = {}) {
    return this.#questions.ask({ type: 'history', room, before, after, limit });
  }

  rooms({ after, limit } = {}) {
    return this.#questions.ask({ type: 'rooms', after, limit });
  }

  members(room, { after } = {}) {
    return this.#questions.ask({ type: 'members', room, after });
  }

  send(room, message, { id = newId() } = {}) {
    return new Promise((resolve, reject) => {
      if (this.state === 'closed') reject(closed());
      else this.#outbox.send(id, room, message, { resolve, reject });
    });
  }

  waiting() {
    return this.#outbox.list();
  }

  resume(positions) {
    const names = Object.keys(positions).filter((name) => !this.#rooms.has(name));
    for (const name of names) this.#follow(name, positions[name], false);
    if (this.#line.isOpen) this.#resume(names);
  }

  positions() {
    const positions = [...this.#rooms].map(([name, room]) => [name, room.position]);
    // No prototype: a room that is called `constructor` is followed if it is, and not always.
    return { __proto__: null, ...Object.fromEntries(positions) };
  }

  who(room) {
    return this.#sign({ type: 'who', room });
  }

  read(room, seq) {
    return this.#sign({ type: 'read', room, seq });
  }

  typing(room) {
    const now = performance.now();
    if (now - (this.#typed.get(room) ?? -Infinity) < TYPING_PAUSE_MS) return Promise.resolve();
    this.#typed.set(room, now);
    return this.#sign({ type: 'typing', room });
  }

  wake() {
    if (this.state !== 'closed') this.#line.wake();
  }

  close() {
    this.#end(closed());
  }

  // The connection.

  #onState(state, more) {
    if (state === 'refused') this.#end(failure('refused', more.reason));
    else this.#become(state, more);
  }

  #onBreak() {
    this.#resumes.clear();
    this.#outbox.rewind();
    this.#questions.onBreak();
  }

  #end(error) {
    if (this.state === 'closed') return;
    this.#line.close();
    this.#questions.close(error);
    this.#outbox.close();
    this.#become('closed', { error });
  }

  #become(state, more) {
    this.state = state;
    this.#emit('state', { state, ...more });
  }

  #emit(type, event) {
    // A copy: who begins to listen now is told from the next one on.
    for (const listener of [...this.#listeners.get(type) ?? []]) {
      try {
        listener(event);
      } catch (error) {
        // A mistake of the application is shown as such, and costs no event.
        queueMicrotask(() => { throw error; });
      }
    }
  }

  #onFrame(frame) {
    switch (frame.type) {
      case 'hello': return this.#onHello(frame);
      case 'joined': return this.#onJoined(frame);
      case 'resumed': return this.#onResumed(frame);
      case 'reset': return this.#onReset(frame);
      case 'ack': return this.#outbox.onStored(frame.id, frame) || this.#questions.onAnswer(frame);
      case 'error': return this.#onError(frame);
      case 'goodbye': case 'pong': return undefined;
      default:
        // What has a seq and a time is of the log, whatever its type will be one day.
        if (frame.seq && frame.at) return this.#onEvent(frame);
        return this.#questions.onAnswer(frame) || this.#emit(frame.type, frame);
    }
  }

  #onHello({ node, server, limits }) {
    Object.assign(this, { node, server, limits });
    this.#unknown.clear();
    this.#outbox.recall();
    this.#become('resuming');
    // Also without a room: the server says whether it takes the user's name.
    this.#resume([...this.#rooms.keys()]);
    this.#questions.repeat();
    this.#outbox.limits = limits;
    this.#outbox.flush();
  }

  #write(frame) {
    this.#line.write({ user_id: this.user, ...frame });
  }

  /** A sign of life: now or not at all, and not to a server that does not know of such. */
  #sign(command) {
    if (!this.#line.isOpen || this.#unknown.has(command.type)) return Promise.resolve();
    return this.#questions.ask(command, true).catch((error) => {
      if (error.code === 'unknown_type') this.#unknown.add(command.type);
    });
  }

  #onError(frame) {
    const asked = this.#resumes.get(frame.id);
    if (asked) return this.#onNotResumed(asked, frame);
    return this.#outbox.onError(frame) || this.#questions.onAnswer(frame)
      || this.#emit('error', new ChatError(frame));
  }

  // Events in.

  /**
   * `position`: the highest seq that was told. `isFresh`: none was yet, so whatever comes first is
   * where the room begins. `memberAt`: the user was a member as of this seq.
   */
  #follow(name, position, isFresh) {
    this.#rooms.set(name, { position, isFresh, memberAt: Infinity, highest: 0, isMending: false });
  }

  #resume(names, attempts = 0) {
    for (let from = 0; from === 0 || from < names.length; from += RESUME_LEN_MAX) {
      const some = names.slice(from, from + RESUME_LEN_MAX).filter((name) => this.#rooms.has(name));
      const rooms = Object.fromEntries(some.map((name) => [name, this.#rooms.get(name).position]));
      const id = newId();
      this.#resumes.set(id, { names: some, attempts });
      this.#write({ type: 'resume', rooms, id });
    }
  }

  /** The whole `resume` was refused, or one room of it. */
  #onNotResumed({ names, attempts }, frame) {
    const { id, room, code, field, retry_after_ms } = frame;
    const isWhole = room === undefined;
    // The one refusal that no room is to blame for, nor the moment.
    if (isWhole && field === 'user_id') return this.#end(new ChatError(frame));
    const some = isWhole ? names : [room];
    if (isWhole) this.#resumes.delete(id);
    if (isWhole && names.length > 1 && !RETRY_CODES.has(code)) {
      // One of them spoils it for the others. Alone, each gets an answer of its own.
      for (const name of names) this.#resume([name]);
    } else if (RETRY_CODES.has(code) || code === 'internal' || some.length === 0) {
      const pause = retry_after_ms ?? this.#line.backoff(attempts);
      this.#line.later(pause, () => this.#resume(some, attempts + 1));
    } else if (this.#rooms.delete(some[0])) {
      this.#emit('left', { room: some[0], error: new ChatError(frame) });
      this.#settle();
    }
    return undefined;
  }

  #onResumed({ id }) {
    this.#resumes.delete(id);
    this.#settle();
  }

  #settle() {
    if (this.#resumes.size > 0 || this.state !== 'resuming') return;
    this.#line.settle();
    this.#become('open');
  }

  #onJoined(frame) {
    const { room: name, last_seq } = frame;
    const asked = this.#questions.commandOf(frame.id);
    if (asked && !this.#rooms.has(name)) {
      // Where a `join` without `since` begins, the first event tells. Should the connection break
      // before it, the next one begins where nothing can be missed: the user's own `join`, if it
      // made an event, is `last_seq` itself.
      const { since, last = 0 } = asked;
      this.#follow(name, since ?? Math.max(0, last_seq - last - 1), since === undefined);
    }
    const room = this.#rooms.get(name);
    if (room) room.memberAt = last_seq;
    this.#emit('joined', frame);
    this.#questions.onAnswer(frame);
  }

  #onReset({ room: name, last_seq }) {
    const room = this.#rooms.get(name);
    if (!room) return;
    Object.assign(room, { position: last_seq, isFresh: false, highest: 0 });
    this.#emit('reset', { room: name, last_seq });
  }

  #onEvent(event) {
    const { room: name, seq, user_id, client_id } = event;
    const isOwn = user_id === this.user;
    // Another command of the user may have had the same id: then the message is not stored.
    const isMessage = isOwn && event.type === 'message';
    if (isMessage && this.#outbox.has(client_id, name)) this.#outbox.onStored(client_id, event);
    const room = this.#rooms.get(name);
    if (!room || seq <= room.position) return;
    if (!room.isFresh && seq > room.position + 1) {
      this.#mend(name, room, seq);
      return;
    }
    Object.assign(room, { position: seq, isFresh: false });
    this.#emit('event', event);
    // A `leave` of long ago may come by in a replay, from before the user was a member again.
    if (event.type === 'leave' && isOwn && seq > room.memberAt) {
      this.#rooms.delete(name);
      this.#emit('left', { room: name });
    }
  }

  /**
   * A server leaves no hole; whatever stands in between might. What came too early is not kept: it
   * is read again with what was missed, until the highest seq that was seen is reached.
   */
  async #mend(name, room, seq) {
    room.highest = Math.max(room.highest, seq);
    if (room.isMending) return;
    room.isMending = true;
    try {
      while (this.#rooms.get(name) === room && room.position < room.highest) {
        const { events } = await this.history(name, { after: room.position, limit: PAGE_LEN });
        if (events.length === 0) break;
        // A listener may close the chat at any of them.
        for (const event of events) if (this.state !== 'closed') this.#onEvent(event);
      }
    } catch {
      // The next connection begins with a `resume` from before the hole.
      if (this.#line.isOpen) this.#line.cut();
    } finally {
      room.isMending = false;
    }
  }
}
