/**
 * The conversation as it is read: a window of the room's events in the document.
 *
 * It keeps no events. `draw` makes the document like the room, whatever happened in between, and
 * keeps what the reader looks at where it is.
 */

import { find, say, soon } from './dom.js';
import { eventRow, pendingRow } from './row.js';
import { count, errorText } from './words.js';

/** So close to the end counts as there: a line, or what rounding makes of it. */
const END_PX = 48;
/** So close to an edge of the window the next page is fetched, before the reader gets there. */
const FETCH_PX = 800;
/** What is shown above the first unread message. */
const NEW_PX = 24;
/** After a page that could not be fetched. */
const RETRY_PAUSE_MS = 2000;

export class Timeline {
  #rooms;
  #user;
  #scroller = find('timeline');
  #events = find('events');
  #pending = find('pending');
  #top = find('timeline-top');
  #latest = find('latest');
  #room = null;
  /** The reader is at the end, and is kept there. */
  #isAtEnd = true;
  #isFetching = false;
  #isToNew = false;
  #pageVisible = () => document.visibilityState === 'visible' && document.hasFocus();
  draw = soon(() => this.#draw());

  constructor(rooms, user) {
    [this.#rooms, this.#user] = [rooms, user];
    const scroller = this.#scroller;
    scroller.onscroll = () => this.#onScroll();
    this.#latest.onclick = () => this.toLatest();
    // The composer grows, the keyboard comes up, the window is turned: the end stays the end.
    new ResizeObserver(() => this.#isAtEnd && this.#toEnd()).observe(scroller);
    for (const type of ['focus', 'blur']) window.addEventListener(type, () => this.#watch());
    document.addEventListener('visibilitychange', () => this.#watch());
  }

  /** Shows another room, at its end or where the unread begin. */
  show(room) {
    this.#room = room;
    this.#isAtEnd = true;
    this.#isToNew = room.newFrom > 0;
    this.#scroller.setAttribute('aria-label', `Messages in ${room.name}`);
    this.#events.replaceChildren();
    this.#pending.replaceChildren();
    this.draw();
  }

  async toLatest() {
    this.#isAtEnd = true;
    await this.#fetch(() => this.#rooms.latest(this.#room));
    this.#toEnd();
    this.draw();
  }

  get isAtEnd() {
    return this.#isAtEnd && (this.#room?.isLive ?? true);
  }

  scrollBy(pages) {
    this.#scroller.scrollBy({ top: pages * this.#scroller.clientHeight * 0.85 });
  }

  #draw() {
    const room = this.#room;
    if (!room || room !== this.#rooms.active) return;
    // Old lines that come in above, or all of another room, are no news to be read out.
    const first = room.events[0]?.seq;
    const isNews = this.#last >= first && this.#first > 0 && this.#first <= first;
    this.#scroller.setAttribute('aria-busy', String(!isNews));
    const anchor = this.#isAtEnd ? null : this.#anchor();
    this.#drawEvents(room);
    this.#drawPending(room);
    say(this.#top, topText(room));
    if (this.#isAtEnd) this.#isToNew ? this.#toNew() : this.#toEnd();
    else if (anchor?.row.isConnected) {
      this.#scroller.scrollTop += anchor.row.getBoundingClientRect().top - anchor.top;
    }
    requestAnimationFrame(() => this.#scroller.setAttribute('aria-busy', 'false'));
    this.#after();
  }

  get #first() {
    return Number(this.#events.firstElementChild?.dataset.seq ?? 0);
  }

  get #last() {
    return Number(this.#events.lastElementChild?.dataset.seq ?? 0);
  }

  /** Rows that are out of the window go; those that are missing at either end are made. */
  #drawEvents(room) {
    const { events } = room;
    const container = this.#events;
    const [first, last] = [events[0]?.seq ?? 0, events.at(-1)?.seq ?? 0];
    const isElsewhere = events.length === 0 || this.#last < first || this.#first > last;
    if (isElsewhere) container.replaceChildren();
    while (container.firstElementChild && this.#first < first) container.firstElementChild.remove();
    while (container.lastElementChild && this.#last > last) container.lastElementChild.remove();
    if (events.length === 0) return;
    const row = (place) => eventRow(events[place], events[place - 1], room.newFrom);
    const isEmpty = !container.firstElementChild;
    const from = isEmpty ? 0 : this.#last + 1 - first;
    const added = events.slice(from).map((_, place) => row(from + place));
    if (!isEmpty) {
      // The first row was made as the first of all; now it may follow another.
      const older = this.#first - first;
      container.firstElementChild.replaceWith(row(older));
      container.prepend(...events.slice(0, older).map((_, place) => row(place)));
    }
    container.append(...added);
    this.#drawNew(room);
  }

  /** The line "New" has moved, or its work is done. */
  #drawNew(room) {
    const shown = this.#events.querySelector('.divider.new')?.parentElement;
    if (Number(shown?.dataset.seq ?? 0) === room.newFrom) return;
    for (const seq of [Number(shown?.dataset.seq), room.newFrom]) {
      const place = room.events.findIndex((event) => event.seq === seq);
      if (place < 0) continue;
      this.#events.children[place].replaceWith(
        eventRow(room.events[place], room.events[place - 1], room.newFrom),
      );
    }
  }

  #drawPending(room) {
    const shown = new Map([...this.#pending.children].map((row) => [row.dataset.id, row]));
    const rows = room.pending.map((message) => {
      const old = shown.get(message.id);
      if (old && ('failed' in old.dataset) === Boolean(message.error)) return old;
      return pendingRow(message, this.#user, {
        words: errorText,
        onResend: () => this.#rooms.resend(room, message.id),
        onDiscard: () => this.#rooms.discard(room, message.id),
      });
    });
    const isSame = rows.length === shown.size && rows.every((row) => row.isConnected);
    if (!isSame) this.#pending.replaceChildren(...rows);
  }

  /** The first row that is in sight, and where. */
  #anchor() {
    const top = this.#scroller.getBoundingClientRect().top;
    const rows = this.#events.children;
    let [low, high] = [0, rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle].getBoundingClientRect().bottom > top) high = middle;
      else low = middle + 1;
    }
    // A row further down: the very first one is made anew when others come before it.
    const row = rows[Math.min(low + 1, rows.length - 1)];
    return row && { row, top: row.getBoundingClientRect().top };
  }

  /** Once after a room was opened: to where the unread begin, should that be out of sight. */
  #toNew() {
    this.#toEnd();
    const line = this.#events.querySelector('.divider.new');
    if (!line) return;
    this.#isToNew = false;
    const above = this.#scroller.getBoundingClientRect().top - line.getBoundingClientRect().top;
    if (above > 0) this.#scroller.scrollTop -= above + NEW_PX;
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#isAtEnd = scrollHeight - scrollTop - clientHeight < END_PX;
    this.#after();
  }

  /** Fetches what is about to be reached, and says what is out of sight. */
  #after() {
    const room = this.#room;
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const below = scrollHeight - scrollTop - clientHeight;
    if (room.isJoined && scrollTop < FETCH_PX && room.hasOlder) {
      this.#fetch(() => this.#rooms.older(room));
    } else if (room.isJoined && below < FETCH_PX && !room.isLive) {
      this.#fetch(() => this.#rooms.newer(room));
    }
    this.#watch();
    this.#latest.hidden = this.isAtEnd;
    const news = room.unread > 0 ? `${count(room.unread, 'new message')} ↓` : 'To the latest ↓';
    say(this.#latest, news);
  }

  #watch() {
    this.#rooms.watch(this.isAtEnd && this.#pageVisible());
  }

  async #fetch(load) {
    if (this.#isFetching) return;
    this.#isFetching = true;
    try {
      await load();
    } catch {
      // The connection is shown elsewhere; when it is back the reader will still want this page.
      await new Promise((resolve) => { setTimeout(resolve, RETRY_PAUSE_MS); });
    } finally {
      this.#isFetching = false;
      this.draw();
    }
  }
}

function topText(room) {
  if (room.hasOlder) return room.events.length > 0 ? 'Loading…' : '';
  return room.events.length > 0 ? `The beginning of ${room.name}` : '';
}
